"""Two ranks, with gloo on the CPU device and with NCCL on two GPUs: DDP and FSDP steps, seeds, sharded heads."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import cce_torch as cce
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import DEVICE
from torch import nn

TOKENS, HIDDEN, VOCAB = 12, 16, 700


class Model(nn.Module):
    """A trunk and a head whose loss is computed in the model's own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCAB, bias=False)

    def forward(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cce.linear_cross_entropy(self.trunk(x), self.head.weight, targets, filter="exact")


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, TOKENS, HIDDEN, generator=generator)
    return x.to(DEVICE), torch.randint(0, VOCAB, (2, TOKENS), generator=generator).to(DEVICE)


def model() -> Model:
    torch.manual_seed(7)
    return Model().to(DEVICE)


def whole_step() -> dict[str, torch.Tensor]:
    """One SGD step on both halves of the batch together."""
    whole, (x, targets) = model(), batch()
    whole(x, targets).backward()
    torch.optim.SGD(whole.parameters(), lr=0.5).step()
    return whole.state_dict()


def ddp(rank: int) -> None:
    from torch.nn.parallel import DistributedDataParallel

    replica, (x, targets) = DistributedDataParallel(model()), batch()
    replica(x[rank], targets[rank]).backward()
    torch.optim.SGD(replica.parameters(), lr=0.5).step()
    for name, expected in whole_step().items():
        torch.testing.assert_close(replica.module.state_dict()[name], expected)


def fsdp(rank: int) -> None:
    from torch.distributed.fsdp import fully_shard

    sharded, (x, targets) = model(), batch()
    fully_shard(sharded)
    sharded(x[rank], targets[rank]).backward()
    torch.optim.SGD(sharded.parameters(), lr=0.5).step()
    expected = whole_step()
    for name, parameter in sharded.named_parameters():
        torch.testing.assert_close(parameter.full_tensor(), expected[name])
    sharded.reshard()
    with pytest.raises(ValueError, match="full_tensor"):
        cce.linear_cross_entropy(x[rank], sharded.head.weight, targets[rank])


def seeds(rank: int) -> None:
    from cce_torch import _seeds

    torch.manual_seed(3)
    mine = _seeds.draw(torch.device(DEVICE))
    both = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(both, mine)
    assert both[0] != both[1]
    # The generators stay in step with each other.
    state = (torch.get_rng_state() if DEVICE == "cpu" else torch.cuda.get_rng_state()).to(DEVICE)
    states = [torch.empty_like(state) for _ in range(2)]
    dist.all_gather(states, state)
    assert torch.equal(*states)


def work(rank: int, name: str, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    if DEVICE == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group("gloo" if DEVICE == "cpu" else "nccl", rank=rank, world_size=2)
    try:
        globals()[name](rank)
    finally:
        dist.destroy_process_group()
    # All is done and checked. torch 2.11 aborts some FSDP processes on gloo as they end, whatever the loss.
    os._exit(0)


@pytest.mark.skipif(DEVICE == "cuda" and torch.cuda.device_count() < 2, reason="one GPU, and each rank needs its own")
@pytest.mark.parametrize("name", ["ddp", "fsdp", "seeds"])
def test_two_ranks(name, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setattr(sys, "path", [folder, *sys.path])
    mp.spawn(work, args=(name, port), nprocs=2)
