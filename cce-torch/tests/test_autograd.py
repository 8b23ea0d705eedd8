"""What autograd promises: upstream gradients, order, memory, refusals."""

from __future__ import annotations

import threading
import time

import cce_torch as cce
import pytest
import torch
from conftest import DEVICE, distance, doubled, problem, reference
from torch.utils.checkpoint import checkpoint

SAMPLED = {"filter": "sampled", "filter_eps": 2.0**-5}


def test_gradients_are_the_slopes_of_the_losses_that_they_belong_to():
    # Central differences of the fp32 losses themselves, along random directions, through `none` and an upstream.
    p = problem(6, hidden=8, vocab=40)
    bias = torch.linspace(-1, 1, 40, device=DEVICE).requires_grad_()
    upstream = torch.randn(6, device=DEVICE)

    def value(e, c, bias):
        options = {"softcap": 4.0, "label_smoothing": 0.1, "reduction": "none", "filter": "exact"}
        return (cce.linear_cross_entropy(e, c, p.targets, bias, **options) * upstream).double().sum()

    gradients = torch.autograd.grad(value(p.e, p.c, bias), (p.e, p.c, bias))
    for _ in range(4):
        directions = [torch.randn_like(tensor) for tensor in (p.e, p.c, bias)]
        slope = sum((g.double() * d.double()).sum() for g, d in zip(gradients, directions))
        step = 1e-2
        with torch.no_grad():
            ahead = value(*(t + step * d for t, d in zip((p.e, p.c, bias), directions)))
            behind = value(*(t - step * d for t, d in zip((p.e, p.c, bias), directions)))
        difference = (ahead - behind) / (2 * step)
        assert abs(difference - slope) < 2e-3 * max(1.0, abs(slope))


def test_calls_may_interleave_with_their_backwards():
    problems = [problem(5 + at, vocab=700, seed=at) for at in range(4)]
    losses = [cce.linear_cross_entropy(p.e, p.c, p.targets, seed=at, **SAMPLED) for at, p in enumerate(problems)]
    expected = []
    for at, p in enumerate(problems):
        alone = cce.linear_cross_entropy(p.e, p.c, p.targets, seed=at, **SAMPLED)
        expected.append(torch.autograd.grad(alone, (p.e, p.c)))
    for at in (2, 0, 3, 1):
        got = torch.autograd.grad(losses[at], (problems[at].e, problems[at].c))
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(got, expected[at]))


def test_a_graph_that_is_retained_gives_the_same_twice():
    p = problem(9, vocab=700)
    loss = cce.linear_cross_entropy(p.e, p.c, p.targets, **SAMPLED)
    first = torch.autograd.grad(loss, (p.e, p.c), retain_graph=True)
    second = torch.autograd.grad(loss, (p.e, p.c))
    assert all(torch.equal(one, other) for one, other in zip(first, second))


def test_gradients_accumulate_over_micro_batches():
    p = problem(8, 5)
    for part in range(4):
        rows = slice(2 * part, 2 * part + 2)
        cce.linear_cross_entropy(p.e[rows], p.c, p.targets[rows], reduction="sum", filter="exact").backward()
    e, c = doubled(p.e, p.c)
    reference(e, c, p.targets, reduction="sum")[0].backward()
    assert distance(p.e.grad, e.grad) < 2e-6 and distance(p.c.grad, c.grad) < 2e-6


def test_a_head_that_is_tied_to_the_embedding_gets_both_gradients():
    weight = problem(1).c.detach().requires_grad_()
    tokens = torch.randint(0, 300, (3, 6), device=DEVICE)
    cce.linear_cross_entropy(weight[tokens], weight, tokens, shift=1, filter="exact").backward()
    (wide,) = doubled(weight)
    reference(wide[tokens], wide, tokens, shift=1)[0].backward()
    assert distance(weight.grad, wide.grad) < 2e-6


def test_memory_between_forward_and_backward_is_what_the_plan_holds():
    saved = []
    p = problem(32, vocab=4000)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        loss = cce.linear_cross_entropy(p.e, p.c, p.targets, **SAMPLED)
    held = [t for t in saved if t.dtype == torch.uint8]
    assert len(held) == 1
    assert held[0].untyped_storage().nbytes() == held[0].numel() > 0
    loss.backward()


def test_saved_tensors_may_be_kept_elsewhere_meanwhile():
    p = problem(32, vocab=4000)
    plain = torch.autograd.grad(cce.linear_cross_entropy(p.e, p.c, p.targets, seed=3, **SAMPLED), (p.e, p.c))

    def moved(tensor):
        # An address that is a multiple of 4 and no more.
        if tensor.dtype != torch.uint8:
            return tensor.clone()
        return torch.cat([tensor.new_zeros(4), tensor])[4:]

    with torch.autograd.graph.saved_tensors_hooks(moved, lambda t: t):
        loss = cce.linear_cross_entropy(p.e, p.c, p.targets, seed=3, **SAMPLED)
    again = torch.autograd.grad(loss, (p.e, p.c))
    assert all(torch.equal(one, other) for one, other in zip(plain, again))


def turned(tensor):
    """The same values with other strides, and at an offset."""
    wide = tensor.new_zeros(*tensor.shape[:-1], tensor.shape[-1] + 3)
    wide[..., 1:-2] = tensor
    return wide[..., 1:-2]


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "through the dispatcher"])
@pytest.mark.parametrize("padded", [True, False])
def test_a_backward_runs_its_forward_s_plan_whatever_strides_come_back(direct, padded, monkeypatch):
    from cce_torch import _eager, _native

    plans = []
    for name in ("forward", "backward"):
        own = getattr(_native, name)
        monkeypatch.setattr(_native, name, lambda plan, *rest, own=own: (plans.append(plan), own(plan, *rest))[1])
    if not direct:
        monkeypatch.setattr(_eager, "is_eager", lambda: False)
    p = problem(32, vocab=4000)
    e, c = (turned(t.detach()).requires_grad_() if padded else t for t in (p.e, p.c))
    plain = torch.autograd.grad(cce.linear_cross_entropy(e, c, p.targets, seed=3, **SAMPLED), (e, c))
    back = torch.Tensor.contiguous if padded else turned
    pack = lambda t: back(t) if t.is_floating_point() and t.dim() == 2 else t  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = cce.linear_cross_entropy(e, c, p.targets, seed=3, **SAMPLED)
    again = torch.autograd.grad(loss, (e, c))
    assert all(torch.equal(one, other) for one, other in zip(plain, again))
    assert len(plans) == 4 and len({plan.identity for plan in plans}) == 1


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_backward_runs_its_forward_s_plan_too(dynamic, monkeypatch):
    from cce_torch import _native

    plans = []
    for name in ("forward", "backward"):
        own = getattr(_native, name)
        monkeypatch.setattr(_native, name, lambda plan, *rest, own=own: (plans.append(plan), own(plan, *rest))[1])
    p = problem(32, vocab=4000)

    def step(e, c):
        return cce.linear_cross_entropy(e, c, p.targets, seed=3, **SAMPLED)

    plain = torch.autograd.grad(step(p.e, p.c), (p.e, p.c))
    torch._dynamo.reset()
    function = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    function(p.e, p.c)
    plans.clear()
    pack = lambda t: turned(t) if t.is_floating_point() and t.dim() == 2 else t  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = function(p.e, p.c)
    again = torch.autograd.grad(loss, (p.e, p.c))
    assert all(torch.equal(one, other) for one, other in zip(plain, again))
    # Another plan has another layout of E and C; on the CPU device it would even give the same bits.
    assert len(plans) == 2 and plans[0].identity == plans[1].identity


@pytest.mark.parametrize("changed", [torch.float32, torch.uint8, torch.int64])
def test_saved_tensors_that_come_back_as_others_are_refused(changed):
    p = problem(32, vocab=4000)
    pack = lambda t: t[: len(t) // 2] if t.dtype == changed and t.numel() > 1 else t  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = cce.linear_cross_entropy(p.e, p.c, p.targets, **SAMPLED)
    with pytest.raises((RuntimeError, ValueError), match="expected"):
        loss.backward()


def test_inputs_that_change_before_the_backward_are_an_error():
    p = problem(9)
    loss = cce.linear_cross_entropy(p.e, p.c, p.targets)
    with torch.no_grad():
        p.c.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_second_derivative_is_a_clear_error():
    p = problem(9)
    loss = cce.linear_cross_entropy(p.e, p.c, p.targets, filter="exact")
    (gradient,) = torch.autograd.grad(loss, p.e, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        gradient.sum().backward()


TRANSFORMS = {
    "grad": lambda f, e: torch.func.grad(f)(e),
    "vjp": lambda f, e: torch.func.vjp(f, e),
    "jvp": lambda f, e: torch.func.jvp(f, (e,), (e,)),
    "jacrev": lambda f, e: torch.func.jacrev(f)(e),
    "hessian": lambda f, e: torch.func.hessian(f)(e),
    "vmap": lambda f, e: torch.func.vmap(f)(e[None]),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_of_torch_func_are_refused_with_what_to_do_instead(name):
    p = problem(5)
    with pytest.raises(RuntimeError, match="transforms of torch.func.*leading dimensions"):
        TRANSFORMS[name](lambda e: cce.linear_cross_entropy(e, p.c.detach(), p.targets), p.e.detach())


def test_forward_mode_derivatives_are_an_error_and_not_zero():
    p = problem(5)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(p.e.detach(), torch.ones_like(p.e))
        with pytest.raises(RuntimeError, match="no forward-mode derivatives"):
            cce.linear_cross_entropy(dual, p.c.detach(), p.targets)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_under_checkpointing_draws_the_same_entries(reentrant):
    p = problem(40, vocab=4000)

    def head(e):
        return cce.linear_cross_entropy(torch.tanh(e), p.c, p.targets, **SAMPLED)

    torch.manual_seed(5)
    expected = torch.autograd.grad(head(p.e), (p.e, p.c))
    torch.manual_seed(5)
    loss = checkpoint(head, p.e, use_reentrant=reentrant)
    # What was drawn in between does not matter.
    torch.rand(10, device=DEVICE)
    loss.backward()
    assert torch.equal(p.e.grad, expected[0]) and torch.equal(p.c.grad, expected[1])
    torch.manual_seed(6)
    other = torch.autograd.grad(head(p.e), (p.e, p.c))
    assert not torch.equal(other[0], expected[0])


def test_threads_share_plans_and_get_their_own_results():
    problems = [problem(16, vocab=900, seed=at) for at in range(6)]
    got: dict[int, tuple] = {}

    def work(at):
        p = problems[at]
        for _ in range(5):
            loss = cce.linear_cross_entropy(p.e, p.c, p.targets, seed=1, **SAMPLED)
            got[at] = torch.autograd.grad(loss, (p.e, p.c))

    threads = [threading.Thread(target=work, args=(at,)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for at, p in enumerate(problems):
        loss = cce.linear_cross_entropy(p.e, p.c, p.targets, seed=1, **SAMPLED)
        expected = torch.autograd.grad(loss, (p.e, p.c))
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(got[at], expected))


@pytest.mark.skipif(DEVICE != "cpu", reason="on a GPU a call returns before its work is done")
def test_the_interpreter_runs_on_during_a_call():
    # One long call; meanwhile this thread counts. Under the interpreter's lock it would pause for all of it.
    p = problem(512, hidden=64, vocab=40000)
    begun, ended = threading.Event(), threading.Event()
    span = []

    def work():
        with torch.no_grad():
            begun.set()
            span.append(time.perf_counter())
            cce.linear_cross_entropy(p.e, p.c, p.targets, filter="exact")
            span.append(time.perf_counter())
        ended.set()

    with torch.no_grad():
        # The plan is made before.
        cce.linear_cross_entropy(p.e, p.c, p.targets, filter="exact")
    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    longest, last = 0.0, time.perf_counter()
    while not ended.is_set():
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    thread.join()
    assert longest < (span[1] - span[0]) / 4, (longest, span[1] - span[0])
