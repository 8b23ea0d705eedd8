"""Seeds of the sampled filter."""

from __future__ import annotations

import torch
import torch.distributed


@torch.compiler.assume_constant_result
def _ranks() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(), torch.distributed.get_rank()
    return 1, 0


def draw(device: torch.device) -> torch.Tensor:
    """One seed, int64 [1], from torch's generator of that device, without waiting for it.

    The generator moves on with every call and with every replay of a captured graph; activation checkpointing sets
    it back for the recomputation, which so draws the same. Ranks of torch.distributed draw different ones from
    generators in the same state: each takes its own of as many as there are ranks.
    """
    world, rank = _ranks()
    drawn = torch.randint(2**63 - 1, (world,), dtype=torch.int64, device=device)
    return drawn if world == 1 else drawn[rank : rank + 1]
