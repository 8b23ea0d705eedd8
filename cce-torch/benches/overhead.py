"""What a call costs the host beyond its kernels, on a GPU: 1024 tokens, a head of 4096 x 576.

    python cce-torch/benches/overhead.py [--json FILE]

A captured graph of the same work, replayed, is the kernels' own time; what an eager call takes longer is the overhead.
Of the backward, both are what forward and backward take less what the forward takes. The host's part of an eager call
stands beside it: the time until the call returns, while the GPU's queue is empty enough to take what comes.
All are medians over interleaved rounds, in microseconds; the spread is the interquartile range of the overheads.

`nothing` is a function of autograd's that computes nothing and returns gradients of whatever their memory holds: what
PyTorch itself takes of the host's time for any function of this kind.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cce_torch as cce
import torch

TOKENS, HIDDEN, VOCAB = 1024, 576, 4096
ROUNDS, CALLS = 30, 50
SCHEMA = 1


def captured(work: Callable[[], object]) -> Callable[[], None]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def microseconds(work: Callable[[], object]) -> tuple[float, float]:
    """Of a call: on the host until it returns, and with what it starts on the GPU."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(CALLS):
        work()
    returned = time.perf_counter()
    torch.cuda.synchronize()
    return (returned - start) / CALLS * 1e6, (time.perf_counter() - start) / CALLS * 1e6


@dataclass
class Cost:
    """Of one call, in microseconds."""

    filter: str
    part: str
    host: float
    eager: float
    graph: float
    overhead: float
    spread: float

    @staticmethod
    def of(filter: str, name: str, rounds: list[tuple[float, float, float]]) -> Cost:
        """From host, eager and graph, round by round."""
        host, eager, graph = (statistics.median(column) for column in zip(*rounds, strict=True))
        overheads = [wall - kernels for _, wall, kernels in rounds]
        low, middle, high = statistics.quantiles(overheads, n=4)
        return Cost(filter, name, host, eager, graph, middle, high - low)

    def text(self) -> str:
        return (
            f"{self.filter}, {self.part}: {self.eager:.0f} us eager, {self.graph:.0f} us as a graph, overhead "
            f"{self.overhead:.0f} us (spread {self.spread:.0f}), on the host until it returns {self.host:.0f} us"
        )


class Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, e: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(e, c)
        return e.new_empty((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        e, c = ctx.saved_tensors
        return torch.empty_like(e), torch.empty_like(c)


def costs(filter: str) -> list[Cost]:
    """Of the forward and of the backward."""
    e = torch.randn(TOKENS, HIDDEN, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    c = torch.randn(VOCAB, HIDDEN, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(0, VOCAB, (TOKENS,), device="cuda")

    def forward() -> torch.Tensor:
        if filter == "nothing":
            return Nothing.apply(e, c)  # type: ignore[no-any-return]
        return cce.linear_cross_entropy(e, c, targets, filter=filter)  # type: ignore[call-overload,no-any-return]

    def step() -> object:
        return torch.autograd.grad(forward(), (e, c))

    # There is nothing to capture of a function that launches nothing.
    replays = (captured(forward), captured(step)) if filter != "nothing" else (lambda: None, lambda: None)
    forwards, backwards = [], []
    for _ in range(ROUNDS):
        (host, eager), (_, graph) = microseconds(forward), microseconds(replays[0])
        (both_host, both), (_, both_graph) = microseconds(step), microseconds(replays[1])
        forwards.append((host, eager, graph))
        backwards.append((both_host - host, both - eager, both_graph - graph))
    return [Cost.of(filter, "forward", forwards), Cost.of(filter, "backward", backwards)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no GPU: the overhead is that of launches, so one is needed")
    if args.json is not None and not args.json.parent.is_dir():
        parser.error(f"{args.json.parent} is no folder, expected one for {args.json.name}: make it first")
    print(f"{torch.cuda.get_device_name()}, N {TOKENS}, D {HIDDEN}, V {VOCAB}, bf16, torch {torch.__version__}")
    found = []
    for filter in ("nothing", "sampled", "exact"):
        for cost in costs(filter):
            found.append(asdict(cost))
            print(cost.text(), flush=True)
    if args.json is not None:
        settings = {"tokens": TOKENS, "hidden": HIDDEN, "vocab": VOCAB, "card": torch.cuda.get_device_name()}
        aside = args.json.with_name(args.json.name + ".new")
        aside.write_text(json.dumps({"schema": SCHEMA, **settings, "torch": torch.__version__, "costs": found}) + "\n")
        os.replace(aside, args.json)


if __name__ == "__main__":
    main()
