"""The interface of cut_cross_entropy."""

from __future__ import annotations

import cce_torch as cce
import pytest
import torch
from cce_torch.compat.cut_cross_entropy import (
    LinearCrossEntropy,
    LinearCrossEntropyImpl,
    VocabParallelOptions,
    linear_cross_entropy,
)
from conftest import DEVICE, distance, problem

EXACT = [
    {"impl": "cce_exact"},
    {"impl": "cce_kahan_full_c"},
    {"impl": "cce_kahan_full_e"},
    {"impl": "cce_kahan_full_c_full_e"},
    {"impl": LinearCrossEntropyImpl.CCE_EXACT},
    {"impl": "torch_compile"},
    {"filter_eps": None},
    {"filter_c_grad": False},
    {"filter_e_grad": False, "accum_e_fp32": True, "accum_c_fp32": True},
]


def gradients(loss, p):
    return torch.autograd.grad(loss, (p.e, p.c))


@pytest.mark.parametrize("options", EXACT, ids=str)
def test_presets_without_a_filter_are_exact(options):
    p = problem(3, 8, vocab=2000)
    got = linear_cross_entropy(p.e, p.c, p.targets, shift=True, softcap=5.0, **options)
    expected = cce.linear_cross_entropy(p.e, p.c, p.targets, shift=1, softcap=5.0, filter="exact")
    assert torch.equal(got, expected)
    assert all(torch.equal(one, other) for one, other in zip(gradients(got, p), gradients(expected, p)))


@pytest.mark.skipif(DEVICE != "cpu", reason="small fp32 heads are sampled on the CPU device only")
@pytest.mark.parametrize(
    "options, own",
    [
        ({}, {}),
        ({"impl": "cce_kahan", "use_kahan": True}, {}),
        ({"filter_eps": 2.0**-5}, {"filter": "sampled", "filter_eps": 2.0**-5}),
        ({"filter_eps": "high"}, {"filter": "sampled", "filter_eps": 2.0**-13}),
    ],
    ids=str,
)
def test_presets_with_a_filter_sample(options, own):
    p = problem(24, vocab=3000)
    torch.manual_seed(1)
    got = gradients(linear_cross_entropy(p.e, p.c, p.targets, **options), p)
    torch.manual_seed(1)
    expected = gradients(cce.linear_cross_entropy(p.e, p.c, p.targets, **own), p)
    exact = gradients(cce.linear_cross_entropy(p.e, p.c, p.targets, filter="exact"), p)
    assert all(torch.equal(one, other) for one, other in zip(got, expected))
    assert 0 < distance(got[0], exact[0]) < 0.5


def test_the_module_and_the_lse():
    p = problem(3, 8)
    module = LinearCrossEntropy(shift=1, reduction="none", impl="cce_exact", return_lse=True)
    loss, lse = module(p.e, p.c, p.targets)
    expected = cce.linear_cross_entropy(p.e, p.c, p.targets, shift=1, reduction="none", filter="exact", return_lse=True)
    assert torch.equal(loss, expected[0]) and torch.equal(lse, expected[1])


def test_what_is_not_there_is_refused():
    p = problem(3)
    with pytest.raises(ValueError, match="`impl` is 'triton', expected one of cce, torch_compile"):
        linear_cross_entropy(p.e, p.c, p.targets, impl="triton")
    with pytest.raises(NotImplementedError, match="sharded over the vocabulary"):
        linear_cross_entropy(p.e, p.c, p.targets, vocab_parallel_options=object())
    with pytest.raises(NotImplementedError, match="gather the head's weight"):
        VocabParallelOptions.from_vocab(1000)
    with pytest.raises(NotImplementedError, match="gather the head's weight"):
        VocabParallelOptions(0, 500)
    with pytest.raises(ValueError, match="`filter_eps` is \\[1\\]"):
        linear_cross_entropy(p.e, p.c, p.targets, filter_eps=[1])
    with pytest.raises(ValueError, match="`filter_eps` is 1000.*, expected a number from 2"):
        linear_cross_entropy(p.e, p.c, p.targets, filter_eps=10**400)
    with pytest.raises(ValueError, match="'auto' or 'high'"):
        linear_cross_entropy(p.e, p.c, p.targets, filter_eps="low")


def test_its_patch_takes_models_and_says_what_to_do_with_types_of_models():
    from cce_torch.compat.cut_cross_entropy.transformers import cce_patch

    with pytest.raises(TypeError, match=r"make the model first, then call `cce_torch.transformers.patch\(model\)`"):
        cce_patch("llama")
    with pytest.raises(ValueError, match="`reduction` is 'none', expected 'mean'"):
        cce_patch(torch.nn.Linear(2, 3), reduction="none")
    with pytest.raises(ValueError, match="Linear has no `lm_head`"):
        cce_patch(torch.nn.Linear(2, 3))
