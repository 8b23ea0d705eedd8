"""The sampled filter: unbiased, seeded by torch's generator."""

from __future__ import annotations

import cce_torch as cce
import pytest
import torch
from conftest import distance, problem

SAMPLED = {"filter": "sampled", "filter_eps": 2.0**-4, "max_entries": 64}


def gradients(p, **options):
    loss = cce.linear_cross_entropy(p.e, p.c, p.targets, **options)
    return loss.detach(), torch.autograd.grad(loss, (p.e, p.c))


def test_the_loss_is_exact_and_the_gradients_are_right_in_the_mean():
    p = problem(24, vocab=3000)
    exact_loss, exact = gradients(p, filter="exact")
    once, mean = [], [torch.zeros_like(g) for g in exact]
    for seed in range(256):
        loss, got = gradients(p, seed=seed, **SAMPLED)
        assert torch.equal(loss, exact_loss)
        once.append([distance(g, x) for g, x in zip(got, exact)])
        mean = [m + g / 256 for m, g in zip(mean, got)]
    for at in range(2):
        single = sum(of[at] for of in once) / len(once)
        assert single > 1e-2, "nothing was sampled"
        # 256 draws: a sixteenth, give or take.
        assert distance(mean[at], exact[at]) < single / 11


def test_a_step_below_every_probability_is_exact():
    p = problem(24, vocab=3000)
    _, exact = gradients(p, filter="exact")
    _, got = gradients(p, filter_eps=1e-9, max_entries=4000, seed=0)
    assert all(distance(g, x) < 5e-6 for g, x in zip(got, exact))


@pytest.mark.parametrize(
    "options", [{"logit_scale": 0.5}, {"softcap": 8.0}, {"label_smoothing": 0.1}, {"z_loss": 0.01}]
)
def test_options_are_sampled_too(options):
    p = problem(24, vocab=3000)
    _, exact = gradients(p, filter="exact", **options)
    _, got = gradients(p, filter="sampled", filter_eps=1e-9, max_entries=4000, seed=0, **options)
    assert all(distance(g, x) < 5e-6 for g, x in zip(got, exact))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.1},
        {"softcap": 8.0},
        {"bias": True},
        {"bias": True, "logit_scale": 0.7, "z_loss": 0.01},
    ],
    ids=str,
)
def test_the_mean_over_seeds_is_the_exact_gradient_within_four_standard_errors(options):
    p, draws = problem(24, vocab=3000), 256
    learn = [p.e, p.c]
    if "bias" in options:
        bias = torch.linspace(-1, 1, 3000, device=p.e.device, requires_grad=True)
        options = options | {"bias": bias}
        learn.append(bias)
    generator = torch.Generator().manual_seed(9)
    along = [torch.randn(8, *t.shape, generator=generator, dtype=torch.float64).to(t.device) for t in learn]

    def projected(**settings):
        got = torch.autograd.grad(cce.linear_cross_entropy(p.e, p.c, p.targets, **options, **settings), learn)
        return torch.stack([(a * g.double()).flatten(1).sum(1) for a, g in zip(along, got)])

    exact = projected(filter="exact")
    got = torch.stack([projected(seed=seed, **SAMPLED) for seed in range(draws)])
    error = got.std(0) / draws**0.5
    assert (error > 1e-6 * exact.abs()).all(), "nothing was sampled"
    assert ((got.mean(0) - exact).abs() < 4 * error).all(), (got.mean(0) - exact) / error


def test_torch_s_generator_seeds_the_calls():
    p = problem(24, vocab=3000)
    torch.manual_seed(3)
    _, first = gradients(p, **SAMPLED)
    _, second = gradients(p, **SAMPLED)
    torch.manual_seed(3)
    _, again = gradients(p, **SAMPLED)
    assert all(torch.equal(one, other) for one, other in zip(first, again))
    assert not torch.equal(first[0], second[0])


def test_an_exact_call_leaves_the_generator_alone():
    p = problem(24)
    state = torch.get_rng_state()
    gradients(p, filter="exact")
    with torch.no_grad():
        cce.linear_cross_entropy(p.e, p.c, p.targets)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_seed_may_be_a_number_or_a_tensor():
    p = problem(24, vocab=3000)
    _, number = gradients(p, seed=2**63 + 5, **SAMPLED)
    _, tensor = gradients(p, seed=torch.tensor(5 - 2**63, device=p.e.device), **SAMPLED)
    _, other = gradients(p, seed=6, **SAMPLED)
    assert all(torch.equal(one, same) for one, same in zip(number, tensor))
    assert not torch.equal(number[0], other[0])


def test_deterministic_algorithms_are_what_these_are():
    p = problem(24, vocab=3000)
    torch.use_deterministic_algorithms(True)
    try:
        _, first = gradients(p, seed=1, **SAMPLED)
        _, second = gradients(p, seed=1, **SAMPLED)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(first, second))
