"""On a GPU: streams, graphs, seeds on the device, memory, several devices, one NCCL rank.

`CCE_TEST_DEVICE=cuda pytest` runs these, and the tests of every device on the GPU too.
"""

from __future__ import annotations

import gc
import os
import socket

import cce_torch as cce
import pytest
import torch
from conftest import DEVICE, distance
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU: CCE_TEST_DEVICE=cuda")

TOKENS, HIDDEN, VOCAB = 2048, 256, 16384


def tensors(dtype: torch.dtype = torch.bfloat16, device: str = "cuda", tokens: int = TOKENS):
    generator = torch.Generator(device).manual_seed(0)
    e = torch.randn(tokens, HIDDEN, device=device, generator=generator).to(dtype).requires_grad_()
    c = (torch.randn(VOCAB, HIDDEN, device=device, generator=generator) * 0.2).to(dtype).requires_grad_()
    targets = torch.randint(0, VOCAB, (tokens,), device=device, generator=generator)
    targets[::7] = -100
    return e, c, targets


def gradients(e, c, targets, **options):
    loss = cce.linear_cross_entropy(e, c, targets, **options)
    return loss.detach(), torch.autograd.grad(loss, (e, c))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
def test_exact_gradients_are_those_of_all_logits(dtype, tolerance):
    e, c, targets = tensors(dtype)
    loss, (d_e, d_c) = gradients(e, c, targets, filter="exact")
    wide = [tensor.detach().double().requires_grad_() for tensor in (e, c)]
    expected = torch.nn.functional.cross_entropy(wide[0] @ wide[1].T, targets)
    expected.backward()
    assert distance(loss, expected) < 1e-5
    assert distance(d_e, wide[0].grad) < tolerance and distance(d_c, wide[1].grad) < tolerance


def test_sampled_gradients_are_exact_in_the_mean():
    e, c, targets = tensors()
    exact_loss, exact = gradients(e, c, targets, filter="exact")
    mean, once = [torch.zeros_like(g, dtype=torch.float32) for g in exact], []
    for _ in range(64):
        loss, got = gradients(e, c, targets, filter="sampled", filter_eps=2.0**-6)
        assert distance(loss, exact_loss) < 1e-6
        once.append(distance(got[0], exact[0]))
        mean = [m + g.float() / 64 for m, g in zip(mean, got)]
    single = sum(once) / len(once)
    assert single > 1e-2
    assert distance(mean[0], exact[0]) < single / 5


def test_nothing_in_a_step_waits_for_the_gpu():
    e, c, targets = tensors()
    gradients(e, c, targets)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(200_000_000)
        begun = torch.cuda.Event()
        begun.record()
        gradients(e, c, targets)
        # The sleep, 100 ms of it, still runs: neither forward nor backward waited for it.
        assert not begun.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()


def test_the_work_is_on_the_current_stream():
    e, c, targets = tensors()
    expected, _ = gradients(e, c, targets, filter="exact")
    fresh = torch.zeros_like(e)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        fresh.copy_(e.detach())
        loss = cce.linear_cross_entropy(fresh, c, targets, filter="exact")
    stream.synchronize()
    assert torch.equal(loss, expected)


def test_a_captured_step_replays_on_new_data_with_new_seeds():
    e, c, targets = tensors()
    for _ in range(3):
        gradients(e, c, targets)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        gradients(e, c, targets)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, (d_e, d_c) = gradients(e, c, targets)
    results = []
    for _ in range(2):
        graph.replay()
        torch.cuda.synchronize()
        results.append((loss.clone(), d_e.clone()))
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.equal(results[0][1], results[1][1])
    with torch.no_grad():
        e.copy_(torch.roll(e, 1, 0))
        targets.copy_(torch.roll(targets, 1, 0))
    graph.replay()
    torch.cuda.synchronize()
    assert distance(loss, results[0][0]) < 1e-5


def test_a_captured_step_replays_when_its_plan_is_dropped():
    from cce_torch import _native, _plans

    e, c, targets = tensors()
    for _ in range(3):
        expected = gradients(e, c, targets, seed=7)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, (d_e, d_c) = gradients(e, c, targets, seed=7)
    alive = _native.plans_alive()
    _plans.kept.clear()
    gc.collect()
    assert _native.plans_alive() < alive
    # What a driver would put in the place of modules that were unloaded.
    for vocab in (4096, 8192):
        cce.linear_cross_entropy(e, c[:vocab], targets.clamp_max(vocab - 1), softcap=20.0).backward()
    for gradient in (d_e, d_c):
        gradient.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(loss, expected[0])
    assert torch.equal(d_e, expected[1][0]) and torch.equal(d_c, expected[1][1])


def test_plans_of_other_numbers_of_tokens_take_little_memory_on_the_gpu():
    # Their kernels are loaded once.
    gradients(*tensors(tokens=256))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.mem_get_info()[0]
    for tokens in range(512, 512 + 64 * 256, 256):
        gradients(*tensors(tokens=tokens))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert before - torch.cuda.mem_get_info()[0] < 64 << 20


def test_targets_out_of_range_are_refused_where_asked_and_not_in_a_capture():
    e, c, targets = tensors()
    gradients(e, c, targets, check_targets=True)
    targets[5] = VOCAB
    with pytest.raises(IndexError, match=rf"`targets\[5\]` is {VOCAB}"):
        gradients(e, c, targets, check_targets=True)
    targets[5] = 1
    graph = torch.cuda.CUDAGraph()
    with pytest.raises((ValueError, RuntimeError), match="cannot be captured"), torch.cuda.graph(graph):
        gradients(e, c, targets, check_targets=True)


def test_seeds_come_from_the_gpu_s_generator_and_checkpointing_repeats_them():
    e, c, targets = tensors()

    def head(e):
        return cce.linear_cross_entropy(e * 1.0, c, targets)

    torch.manual_seed(4)
    expected = torch.autograd.grad(head(e), (e, c))
    torch.manual_seed(4)
    got = torch.autograd.grad(checkpoint(head, e, use_reentrant=False), (e, c))
    assert all(torch.equal(one, other) for one, other in zip(got, expected))
    assert not torch.equal(torch.autograd.grad(head(e), e)[0], expected[0])


def test_memory_beyond_the_gradients_is_the_workspace():
    from cce_torch import _plans

    e, c, targets = tensors()
    gradients(e, c, targets)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss = cce.linear_cross_entropy(e, c, targets)
    plan = next(reversed(_plans.kept._plans.values()))
    between = torch.cuda.memory_allocated() - before
    grads = torch.autograd.grad(loss, (e, c))
    peak = torch.cuda.max_memory_allocated() - before
    slack = 1 << 20
    assert between <= plan.held + slack
    assert peak <= plan.peak + sum(g.numel() * g.element_size() for g in grads) + slack


def test_inductor_compiles_the_whole_step():
    torch._dynamo.reset()
    e, c, targets = tensors()

    def step(e, c, y):
        return cce.linear_cross_entropy(torch.tanh(e), c, y, seed=3)

    eager = step(e, c, targets)
    compiled = torch.compile(step, fullgraph=True, mode="reduce-overhead")(e, c, targets)
    assert distance(compiled, eager) < 1e-3
    got, expected = (torch.autograd.grad(loss, (e, c)) for loss in (compiled, eager))
    assert all(distance(one, other) < 3e-2 for one, other in zip(got, expected))


def test_several_gpus_in_one_process():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    torch.cuda.set_device(0)
    results = []
    for at in range(2):
        results.append(gradients(*tensors(device=f"cuda:{at}"), filter="exact"))
        # Neither torch's idea of the current device nor the driver's has changed.
        assert torch.cuda.current_device() == 0
        assert torch.empty(1, device="cuda").device.index == 0
    assert distance(results[1][0].cpu(), results[0][0].cpu()) < 1e-6
    assert distance(results[1][1][1].cpu(), results[0][1][1].cpu()) < 1e-2


def test_a_ddp_step_of_one_nccl_rank():
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(tensors()[1].detach())

        def forward(self, e, targets):
            return cce.linear_cross_entropy(e, self.weight, targets, filter="exact")

    e, c, targets = tensors()
    dist.init_process_group("nccl", rank=0, world_size=1)
    try:
        head = DistributedDataParallel(Head().cuda())
        head(e, targets).backward()
    finally:
        dist.destroy_process_group()
    _, (_, expected) = gradients(e, c, targets, filter="exact")
    assert distance(head.module.weight.grad, expected) < 1e-6
