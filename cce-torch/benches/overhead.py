"""What a call costs the host beyond its kernels, on a GPU: N = 1024 tokens and a small head.

    python cce-torch/benches/overhead.py

A captured graph of the same work, replayed, is the kernels' own time; what an eager call takes longer is the overhead.
Both are medians over interleaved rounds, in microseconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import cce_torch as cce
import torch

TOKENS, HIDDEN, VOCAB, ROUNDS, CALLS = 1024, 256, 4096, 30, 50


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


def microseconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(CALLS):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / CALLS * 1e6


def main() -> None:
    e = torch.randn(TOKENS, HIDDEN, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    c = torch.randn(VOCAB, HIDDEN, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(0, VOCAB, (TOKENS,), device="cuda")

    def forward() -> object:
        return cce.linear_cross_entropy(e, c, targets)

    def step() -> object:
        return torch.autograd.grad(cce.linear_cross_entropy(e, c, targets), (e, c))

    print(f"{torch.cuda.get_device_name()}, N {TOKENS}, D {HIDDEN}, V {VOCAB}, bf16, torch {torch.__version__}")
    for name, work in (("forward", forward), ("forward and backward", step)):
        replay = captured(work)
        rounds = [(microseconds(work), microseconds(replay)) for _ in range(ROUNDS)]
        eager, graph = (statistics.median(column) for column in zip(*rounds, strict=True))
        over = statistics.median(one - other for one, other in rounds)
        print(f"{name}: {eager:.0f} us eager, {graph:.0f} us as a graph, {over:.0f} us overhead")


if __name__ == "__main__":
    main()
