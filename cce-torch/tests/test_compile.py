"""torch.compile: whole graphs, the same numbers."""

from __future__ import annotations

import shutil

import cce_torch as cce
import pytest
import torch
from conftest import DEVICE, distance, problem

pytestmark = pytest.mark.filterwarnings("ignore")
BACKEND = "aot_eager"


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def compiled(function, **options):
    return torch.compile(function, fullgraph=True, backend=BACKEND, **options)


def both(function, p, **options):
    """Loss and gradients, in eager mode and compiled."""
    results = []
    for run in (function, compiled(function, **options)):
        loss = run(p.e, p.c, p.targets)
        results.append((loss.detach(), *torch.autograd.grad(loss, (p.e, p.c))))
    return results


OPTIONS = {
    "plain": {},
    "softcap": {"softcap": 5.0},
    "bias, smoothing, z-loss": {"label_smoothing": 0.1, "z_loss": 0.01, "logit_scale": 0.5},
    "a shift": {"shift": 1},
    "sampled": {"filter": "sampled", "filter_eps": 2.0**-5, "seed": 3},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_compiled_call_has_no_graph_break_and_gives_the_same_bits(name):
    options = {"filter": "exact"} | OPTIONS[name]
    eager, graph = both(lambda e, c, y: cce.linear_cross_entropy(e, c, y, **options), problem(4, 9, vocab=900))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(graph, eager))


def test_what_surrounds_a_call_is_compiled_with_it():
    p = problem(4, 9)

    def step(e, c, y):
        loss, lse = cce.linear_cross_entropy(torch.tanh(e * 2), c * 3, y, return_lse=True, filter="exact")
        return loss * 2 + (lse**2).mean()

    eager, graph = both(step, p)
    assert all(distance(ours, theirs) < 1e-6 for ours, theirs in zip(graph, eager))


def test_one_graph_serves_any_number_of_tokens():
    function = compiled(
        lambda e, c, y: cce.linear_cross_entropy(e, c, y, filter="sampled", filter_eps=2.0**-5, seed=1), dynamic=True
    )
    torch._dynamo.config.error_on_recompile = True
    try:
        for tokens in (12, 30, 7):
            p = problem(tokens, vocab=900)
            loss = function(p.e, p.c, p.targets)
            got = torch.autograd.grad(loss, (p.e, p.c))
            eager = cce.linear_cross_entropy(p.e, p.c, p.targets, filter="sampled", filter_eps=2.0**-5, seed=1)
            expected = torch.autograd.grad(eager, (p.e, p.c))
            assert torch.equal(loss, eager)
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(got, expected))
    finally:
        torch._dynamo.config.error_on_recompile = False


def test_a_compiled_call_draws_another_seed_every_time():
    p = problem(24, vocab=3000)
    function = compiled(lambda e, c, y: cce.linear_cross_entropy(e, c, y, filter="sampled", filter_eps=2.0**-4))
    draws = [torch.autograd.grad(function(p.e, p.c, p.targets), p.e)[0] for _ in range(2)]
    assert not torch.equal(*draws)


def test_two_calls_alike_in_one_graph_draw_apart():
    p = problem(24, vocab=3000)

    def twice(e, c, y):
        options = {"filter": "sampled", "filter_eps": 2.0**-4}
        one, other = (cce.linear_cross_entropy(e, c, y, **options) for _ in range(2))
        return one - other

    (difference,) = torch.autograd.grad(compiled(twice)(p.e, p.c, p.targets), p.e)
    assert difference.norm() > 0


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_compiles_the_whole_step():
    p = problem(4, 9, vocab=900)
    options = {"filter": "sampled", "filter_eps": 2.0**-5, "seed": 1}

    def step(e, c, y):
        return cce.linear_cross_entropy(torch.tanh(e), c, y, **options)

    function = torch.compile(step, fullgraph=True)
    results = []
    for run in (step, function):
        loss = run(p.e, p.c, p.targets)
        results.append((loss.detach(), *torch.autograd.grad(loss, (p.e, p.c))))
    assert all(distance(ours, theirs) < 1e-5 for ours, theirs in zip(*results))


def test_losses_of_users_are_compiled_too():
    @cce.loss
    def focal(x, y, gamma, weight: cce.Row):
        nll = cce.lse(x) - cce.at(x, y)
        return {"loss": weight * cce.pow(1 - cce.exp(-nll), gamma) * nll, "nll": nll}

    p = problem(4, 9)
    weight = torch.rand(4, 9, device=DEVICE)

    def step(e, c, y):
        result = focal(e, c, y, gamma=2.0, weight=weight, filter="exact")
        return result.loss + result.nll.mean()

    eager, graph = both(step, p)
    assert all(distance(ours, theirs) < 1e-6 for ours, theirs in zip(graph, eager))


def test_autocast_is_compiled_too():
    p = problem(4, 9)

    def step(e, c, y):
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            return cce.linear_cross_entropy(e, c, y, filter="exact")

    eager, graph = both(step, p)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(graph, eager))


def test_the_operators_pass_torch_s_own_checks():
    from cce_torch import _call, _linear, _ops

    p = problem(5, vocab=60)
    spec = _call._spec(
        _linear.cross_entropy((), True), "f32", "mean", -100, "exact", (), (), True, True, (), ("lse",), True
    )
    torch.library.opcheck(
        _ops.forward,
        (p.e, p.c, p.targets, [], [], None, spec),
        # Not those of whole graphs, which compare every byte: what is held has room that nothing was written to.
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
