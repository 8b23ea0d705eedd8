"""Losses and gradients against plain PyTorch in float64."""

from __future__ import annotations

import logging

import cce_torch as cce
import numpy as np
import pytest
import torch
from conftest import DEVICE, distance, doubled, problem, reference

OPTIONS = [
    {},
    {"softcap": 5.0},
    {"logit_scale": 0.7},
    {"label_smoothing": 0.1},
    {"z_loss": 1e-2},
    {"bias": True},
    {"weight": True},
    {"weight": True, "label_smoothing": 0.2},
    {"weight": True, "z_loss": 1e-2, "softcap": 8.0},
    {"bias": True, "logit_scale": 1.5, "softcap": 10.0, "label_smoothing": 0.05, "z_loss": 1e-3, "weight": True},
]


def given(options: dict, vocab: int) -> dict:
    """The options with tensors where they only say that there is one."""
    made = dict(options)
    if options.get("bias"):
        made["bias"] = torch.linspace(-1, 1, vocab, device=DEVICE).requires_grad_()
    if options.get("weight"):
        made["weight"] = torch.linspace(0.1, 2, vocab, device=DEVICE)
    return made


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "plain")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_every_option_gives_pytorch_s_loss_and_gradients(options, reduction):
    p = problem(3, 11, seed=len(options))
    options = given(options, 300)
    loss = cce.linear_cross_entropy(p.e, p.c, p.targets, reduction=reduction, filter="exact", **options)
    upstream = torch.randn_like(loss)
    loss.backward(upstream)

    e, c = doubled(p.e, p.c)
    wide = {name: value.detach().double() if torch.is_tensor(value) else value for name, value in options.items()}
    if "bias" in wide:
        wide["bias"].requires_grad_()
    expected, _ = reference(e, c, p.targets, reduction=reduction, **wide)
    expected.backward(upstream.double())

    assert loss.dtype == torch.float32 and loss.shape == expected.shape
    assert distance(loss, expected) < 1e-6
    assert distance(p.e.grad, e.grad) < 2e-6
    assert distance(p.c.grad, c.grad) < 2e-6
    if "bias" in options:
        assert distance(options["bias"].grad, wide["bias"].grad) < 2e-6


@pytest.mark.parametrize("seed", range(8))
def test_shapes_at_random(seed):
    generator = torch.Generator().manual_seed(seed)
    pick = lambda low, high: int(torch.randint(low, high, (), generator=generator))  # noqa: E731
    shape = [(pick(1, 40),), (pick(1, 5), pick(1, 9)), (pick(1, 3), pick(1, 4), pick(2, 6))][pick(0, 3)]
    p = problem(*shape, hidden=pick(1, 40), vocab=pick(2, 700), seed=seed, index=[torch.int32, torch.int64][pick(0, 2)])
    loss = cce.linear_cross_entropy(p.e, p.c, p.targets, filter="exact")
    loss.backward()
    e, c = doubled(p.e, p.c)
    expected, _ = reference(e, c, p.targets)
    expected.backward()
    assert distance(loss, expected) < 1e-6 or expected == 0
    assert distance(p.e.grad, e.grad) < 3e-6
    assert distance(p.c.grad, c.grad) < 3e-6


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_half_types_give_fp32_losses_and_gradients_in_their_own_type(dtype, tolerance):
    p = problem(4, 8, dtype=dtype)
    loss = cce.linear_cross_entropy(p.e, p.c, p.targets, filter="exact")
    loss.backward()
    e, c = doubled(p.e, p.c)
    expected, _ = reference(e, c, p.targets)
    expected.backward()
    assert loss.dtype == torch.float32 and distance(loss, expected) < 1e-5
    assert p.e.grad.dtype == p.c.grad.dtype == dtype
    assert distance(p.e.grad, e.grad) < tolerance
    assert distance(p.c.grad, c.grad) < tolerance


@pytest.mark.parametrize("shift", [1, 2, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_shift_pairs_each_state_with_a_later_target(shift, reduction):
    p = problem(3, 9)
    loss, lse = cce.linear_cross_entropy(
        p.e, p.c, p.targets, shift=shift, reduction=reduction, return_lse=True, filter="exact"
    )
    e, c = doubled(p.e, p.c)
    expected, expected_lse = reference(e, c, p.targets, shift=int(shift), reduction=reduction)
    upstream = torch.randn_like(loss)
    loss.backward(upstream)
    expected.backward(upstream.double())
    assert loss.shape == expected.shape and lse.shape == expected_lse.shape
    assert distance(loss, expected) < 1e-6 and distance(lse, expected_lse) < 1e-6
    assert distance(p.e.grad, e.grad) < 2e-6 and distance(p.c.grad, c.grad) < 2e-6
    assert p.e.grad[:, -int(shift) :].abs().sum() == 0


def test_the_lse_is_differentiable_beside_the_loss():
    p = problem(20)
    loss, lse = cce.linear_cross_entropy(p.e, p.c, p.targets, return_lse=True, softcap=6.0, filter="exact")
    (loss + 0.1 * (lse**2).mean()).backward()
    e, c = doubled(p.e, p.c)
    expected, expected_lse = reference(e, c, p.targets, softcap=6.0)
    (expected + 0.1 * (expected_lse**2).mean()).backward()
    assert distance(p.e.grad, e.grad) < 2e-6 and distance(p.c.grad, c.grad) < 2e-6


def test_ignored_tokens_cost_nothing_and_give_zeros():
    p = problem(12, ignored=0.0)
    targets = p.targets.clone()
    targets[3:7] = 5
    losses = cce.linear_cross_entropy(p.e, p.c, targets, ignore_index=5, reduction="none", filter="exact")
    losses.sum().backward()
    assert (losses[3:7] == 0).all() and (losses[:3] > 0).all()
    assert (p.e.grad[3:7] == 0).all() and (p.e.grad[7:].norm(dim=1) > 0).all()


def test_a_mean_over_no_tokens_is_zero_with_zero_gradients():
    p = problem(6)
    loss = cce.linear_cross_entropy(p.e, p.c, torch.full_like(p.targets, -100))
    loss.backward()
    assert loss == 0 and (p.e.grad == 0).all() and (p.c.grad == 0).all()


def test_no_tokens_at_all_are_no_error():
    e = torch.zeros(0, 24, device=DEVICE, requires_grad=True)
    c = problem(1).c
    loss = cce.linear_cross_entropy(e, c, torch.zeros(0, dtype=torch.int64, device=DEVICE))
    loss.backward()
    assert loss == 0 and e.grad.shape == (0, 24) and (c.grad == 0).all()


def test_a_target_out_of_range_makes_its_own_loss_nan_and_the_mean():
    p = problem(5, ignored=0.0)
    targets = p.targets.clone()
    targets[2] = 300
    losses = cce.linear_cross_entropy(p.e, p.c, targets, reduction="none", filter="exact")
    assert losses.isnan().tolist() == [False, False, True, False, False]
    assert cce.linear_cross_entropy(p.e, p.c, targets).isnan()


STRIDES = {
    "hidden states with padding between rows": lambda p: (torch.cat([p.e, p.e], -1)[..., :24], p.c, p.targets),
    "transposed tokens": lambda p: (p.e.transpose(0, 1).contiguous().transpose(0, 1), p.c, p.targets),
    "a transposed head": lambda p: (p.e, p.c.T.contiguous().T, p.targets),
    "every second row of a head": lambda p: (p.e, torch.stack([p.c, p.c], 1).flatten(0, 1)[::2], p.targets),
    "hidden states of inner stride 2": lambda p: (torch.stack([p.e, p.e], -1).flatten(-2)[..., ::2], p.c, p.targets),
    "one state for all tokens": lambda p: (p.e[:1, :1].expand(4, 6, 24), p.c, p.targets),
    "a slice of the sequence": lambda p: (torch.cat([p.e, p.e], 1)[:, 2:8], p.c, p.targets),
    "targets with strides": lambda p: (p.e, p.c, torch.stack([p.targets, p.targets], -1)[..., 0]),
    "an offset of one element": lambda p: (
        torch.cat([p.e.new_zeros(1), p.e.flatten()])[1:].view(4, 6, 24),
        p.c,
        p.targets,
    ),
}


@pytest.mark.parametrize("name", STRIDES)
def test_any_strides_give_the_same(name):
    p = problem(4, 6)
    e, c, targets = STRIDES[name](p)
    loss = cce.linear_cross_entropy(e, c, targets, filter="exact")
    got = torch.autograd.grad(loss, (p.e, p.c))
    wide_e, wide_c = doubled(p.e, p.c)
    moved_e, moved_c, _ = STRIDES[name](type(p)(wide_e, wide_c, p.targets))
    expected, _ = reference(moved_e, moved_c, targets)
    expected = torch.autograd.grad(expected, (wide_e, wide_c))
    for ours, theirs in zip(got, expected):
        assert distance(ours, theirs) < 2e-6


def test_tokens_that_lie_transposed_in_memory_are_walked_as_they_lie(monkeypatch):
    p = problem(4, 6)
    moved = p.e.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    from cce_torch import _matrices

    seen = []
    as_rows = _matrices.as_rows
    monkeypatch.setattr(_matrices, "as_rows", lambda t, dtype: seen.append((t, as_rows(t, dtype))) or seen[-1][1])
    losses = cce.linear_cross_entropy(moved, p.c, p.targets, reduction="none", shift=1, filter="exact")
    upstream = torch.randn_like(losses)
    losses.backward(upstream)
    assert all(rows.data_ptr() == given.data_ptr() for given, rows in seen), "a tensor was copied"
    e, c = doubled(p.e, p.c)
    expected, _ = reference(e, c, p.targets, reduction="none", shift=1)
    expected.backward(upstream.double())
    assert distance(losses, expected) < 1e-6 and distance(moved.grad, e.grad) < 2e-6


@pytest.mark.parametrize("wanted", ["e", "c", "bias", "e c", "e bias", "c bias", "scale"])
def test_any_subset_may_require_gradients(wanted):
    p = problem(10)
    tensors = {
        "e": p.e.detach(),
        "c": p.c.detach(),
        "bias": torch.linspace(-1, 1, 300, device=DEVICE),
        "scale": torch.tensor(0.8, device=DEVICE),
    }
    for name in wanted.split():
        tensors[name] = tensors[name].clone().requires_grad_()
    loss = cce.linear_cross_entropy(
        tensors["e"], tensors["c"], p.targets, tensors["bias"], logit_scale=tensors["scale"], filter="exact"
    )
    loss.backward()
    wide = {name: tensor.detach().double().requires_grad_(tensor.requires_grad) for name, tensor in tensors.items()}
    expected, _ = reference(wide["e"], wide["c"], p.targets, wide["bias"], logit_scale=wide["scale"])
    expected.backward()
    for name, tensor in tensors.items():
        assert (tensor.grad is not None) == (name in wanted.split())
        if tensor.grad is not None:
            assert tensor.grad.shape == tensor.shape
            assert distance(tensor.grad, wide[name].grad) < 2e-6, name


def test_options_may_be_tensors_that_learn():
    p = problem(10)
    values = {"softcap": 7.0, "logit_scale": 1.2, "z_loss": 0.01, "label_smoothing": 0.1}
    scalars = {name: torch.tensor(value, device=DEVICE, requires_grad=True) for name, value in values.items()}
    loss = cce.linear_cross_entropy(p.e, p.c, p.targets, filter="exact", **scalars)
    loss.backward()
    wide = {name: value.detach().double().requires_grad_() for name, value in scalars.items()}
    e, c = doubled(p.e, p.c)
    smoothing = wide.pop("label_smoothing")
    plain, _ = reference(e, c, p.targets, softcap=wide["softcap"], logit_scale=wide["logit_scale"])
    uniform, _ = reference(
        e, c, p.targets, softcap=wide["softcap"], logit_scale=wide["logit_scale"], label_smoothing=1.0
    )
    penalty, _ = reference(
        e, c, p.targets, softcap=wide["softcap"], logit_scale=wide["logit_scale"], z_loss=wide["z_loss"]
    )
    ((1 - smoothing) * plain + smoothing * uniform + (penalty - plain)).backward()
    wide["label_smoothing"] = smoothing
    for name, value in scalars.items():
        assert distance(value.grad, wide[name].grad) < 2e-6, name
    assert distance(p.e.grad, e.grad) < 2e-6


def test_evaluation_holds_nothing_and_requires_nothing():
    p = problem(10)
    with torch.no_grad():
        loss = cce.linear_cross_entropy(p.e, p.c, p.targets)
    assert not loss.requires_grad
    with torch.inference_mode():
        assert torch.equal(cce.linear_cross_entropy(p.e, p.c, p.targets), loss)


@pytest.mark.skipif(DEVICE != "cpu", reason="a GPU forms the gradients of logits in bfloat16")
@pytest.mark.parametrize("types", [(torch.float32, torch.float32), (torch.bfloat16, torch.float32)])
def test_autocast_multiplies_in_its_type_and_gives_gradients_in_the_tensors_own(types):
    p = problem(4, 8)
    e, c = (tensor.detach().to(dtype).requires_grad_() for tensor, dtype in zip((p.e, p.c), types))
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        loss = cce.linear_cross_entropy(e, c, p.targets, filter="exact")
    loss.backward()
    wide_e, wide_c = doubled(e.bfloat16(), c.bfloat16())
    wide_e, wide_c = wide_e.requires_grad_(), wide_c.requires_grad_()
    expected, _ = reference(wide_e, wide_c, p.targets)
    expected.backward()
    assert distance(loss, expected) < 1e-5
    assert e.grad.dtype == types[0] and c.grad.dtype == types[1]
    # dC is not rounded to bfloat16 on its way to a float32 head.
    assert distance(c.grad, wide_c.grad) < 1e-4
    assert distance(e.grad, wide_e.grad) < (1e-4 if types[0] == torch.float32 else 8e-3)


def test_token_logprobs_give_log_probabilities_and_entropies_with_gradients_a_token():
    p = problem(3, 7)
    logprobs, entropies = cce.token_logprobs(p.e, p.c, p.targets, logit_scale=0.9, shift=1, filter="exact")
    weights = torch.randn_like(logprobs)
    (weights * logprobs.exp() - 0.1 * entropies).sum().backward()
    e, c = doubled(p.e, p.c)
    targets = p.targets[:, 1:]
    counts = targets != -100
    logs = torch.log_softmax(0.9 * (e[:, :-1] @ c.T), -1)
    expected = logs.gather(-1, torch.where(counts, targets, 0)[..., None])[..., 0] * counts
    expected_entropy = -(logs.exp() * logs).sum(-1) * counts
    (weights.double() * expected.exp() * counts - 0.1 * expected_entropy).sum().backward()
    assert distance(logprobs, expected) < 1e-6 and distance(entropies, expected_entropy) < 1e-6
    assert distance(p.e.grad, e.grad) < 3e-6 and distance(p.c.grad, c.grad) < 3e-6
    alone = cce.token_logprobs(p.e, p.c, p.targets, logit_scale=0.9, shift=1, entropy=False, filter="exact")
    assert torch.equal(alone, logprobs)


def test_the_module_has_the_function_s_options():
    p = problem(3, 7)
    weight = torch.linspace(0.1, 2, 300, device=DEVICE)
    module = cce.LinearCrossEntropy(softcap=5.0, shift=1, reduction="sum", filter="exact", weight=weight).to(DEVICE)
    expected = cce.linear_cross_entropy(
        p.e, p.c, p.targets, softcap=5.0, shift=1, reduction="sum", filter="exact", weight=weight
    )
    assert torch.equal(module(p.e, p.c, p.targets), expected)
    shown = "softcap=5.0, reduction='sum', shift=1, filter='exact', weight=tensor of shape [300]"
    assert repr(module) == f"LinearCrossEntropy({shown})"
    assert repr(cce.LinearCrossEntropy(softcap=torch.ones(1))) == "LinearCrossEntropy(softcap=tensor of shape [1])"
    assert list(module.parameters()) == []


def test_a_filter_that_is_chosen_for_the_caller_is_logged_once(caplog):
    p = problem(4, vocab=1031)
    with caplog.at_level(logging.INFO, logger="cce_torch"):
        for _ in range(2):
            # Its mean over the vocabulary varies from logit to logit: no device samples it.
            cce.linear_cross_entropy(p.e, p.c, p.targets, softcap=7.0, label_smoothing=0.1)
    lines = [record.getMessage() for record in caplog.records]
    lines = [line for line in lines if "grade" not in line]
    assert len(lines) == 1 and "the filter is exact" in lines[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_s_gradient_may_be_added_to_a_buffer(dtype):
    p = problem(8, 5, dtype=dtype)
    buffer = torch.ones(300, 24, device=DEVICE)
    for part in range(4):
        rows = slice(2 * part, 2 * part + 2)
        loss = cce.linear_cross_entropy(
            p.e[rows], p.c, p.targets[rows], reduction="sum", filter="exact", main_grad=buffer
        )
        loss.backward()
    e, c = doubled(p.e, p.c)
    reference(e, c, p.targets, reduction="sum")[0].backward()
    assert p.c.grad is None
    assert distance(buffer - 1, c.grad) < (1e-5 if dtype == torch.float32 else 8e-3)
    assert distance(p.e.grad, e.grad) < (2e-6 if dtype == torch.float32 else 8e-3)


def _ended(function, *arguments, **options):
    """The end of a message is looked at."""
    try:
        function(*arguments, **options)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error}\n") from None


MISTAKES = {
    "expected a tensor for `e`": lambda p: cce.linear_cross_entropy([1.0], p.c, p.targets),
    "expected [..., D] and [V, D]": lambda p: cce.linear_cross_entropy(p.e, p.c[:, 1:], p.targets),
    "`targets` has shape [3], expected [4]": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets[1:]),
    "`targets` is torch.int16": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets.short()),
    "`e` is torch.float64": lambda p: cce.linear_cross_entropy(p.e.double(), p.c.double(), p.targets),
    "use torch.autocast": lambda p: cce.linear_cross_entropy(p.e, p.c.bfloat16(), p.targets),
    "expected 'mean', 'sum' or 'none'": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets, reduction="avg"),
    "`shift` is 2, expected": lambda p: cce.linear_cross_entropy(p.e[None, :1], p.c, p.targets[None, :1], shift=2),
    "`softcap` is 0.0": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets, softcap=0.0),
    "`label_smoothing` is 2": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets, label_smoothing=2),
    "`bias` has shape [3], expected [300]": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets, p.c[0, :3]),
    "`filter` is 'blocks'": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets, filter="blocks"),
    "the sampled filter's": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets, filter="exact", filter_eps=0.1),
    "`filter_eps` is 2.0, expected a number from 2**-64 to 1": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, filter_eps=2.0
    ),
    "`seed` is torch.float32": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets, seed=p.e[0, :1]),
    "the ignored index is 4294967296": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets.int(), ignore_index=2**32
    ),
    "`main_grad` has shape [300]": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, main_grad=p.c[:, 0].detach()
    ),
    "`main_grad` is torch.float16": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, main_grad=p.c.detach().half()
    ),
    "`c` requires no gradient": lambda p: cce.linear_cross_entropy(
        p.e, p.c.detach(), p.targets, main_grad=torch.zeros_like(p.c)
    ),
    "`e` is on meta": lambda p: cce.linear_cross_entropy(p.e.to("meta"), p.c.to("meta"), p.targets.to("meta")),
    "`weight` requires a gradient": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, weight=torch.ones(p.c.shape[0], device=p.c.device, requires_grad=True)
    ),
    "`softcap` is '30' (str), expected None, a number": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, softcap="30"
    ),
    "`softcap` is inf": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets, softcap=float("inf")),
    "`softcap` has shape [2], expected one element": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, softcap=torch.ones(2, device=p.e.device)
    ),
    "`softcap` is 1e+300 (float), expected None, a number that float32 can hold": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, softcap=1e300
    ),
    "`softcap` is 1e-300, expected None or a number above 0": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, softcap=1e-300
    ),
    "`softcap` is array([1., 1.]) (ndarray), expected None, a number": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, softcap=np.ones(2)
    ),
    "`z_loss` is nan (float), expected a number that float32 can hold": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, z_loss=float("nan")
    ),
    "... (int), expected a number that float32 can hold": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, z_loss=10**400
    ),
    "`z_loss` is 0x10000": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets, z_loss=2**20000),
    "`softcap` is np.complex64(4+2j) (complex64), expected None, a number": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, softcap=np.complex64(4 + 2j)
    ),
    "`softcap` is array(4.+2.j) (ndarray), expected None, a number": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, softcap=np.array(4 + 2j)
    ),
    "`z_loss` is np.True_ (bool), expected a number": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, z_loss=np.bool_(True)
    ),
    "`shift` is np.True_ (bool), expected a whole number": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, shift=np.bool_(True)
    ),
    "`max_entries` is array(2.5) (ndarray), expected a whole number": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, max_entries=np.array(2.5)
    ),
    "00000..., expected a whole number from 0": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets, shift=10**400),
    "00000..., expected a number from 2**-64 to 1": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, filter_eps=10**400
    ),
    "`shift` is array([1, 2]) (ndarray), expected a whole number": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, shift=np.array([1, 2])
    ),
    "`z_loss` is None, expected a number": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets, z_loss=None),
    "`bias` is 1.0 (float), expected None or a tensor [V]": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, 1.0
    ),
    "`weight` is [1.0] (list), expected None or a tensor": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, weight=[1.0]
    ),
    "`reduction` is None, expected": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets, reduction=None),
    "`filter` is 3, expected None, 'exact' or 'sampled'": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, filter=3
    ),
    "`filter_eps` is '2^-10' (str)": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets, filter_eps="2^-10"),
    "`max_entries` is 1.5 (float), expected a whole number": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, max_entries=1.5
    ),
    "`max_entries` is 1, expected": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets, max_entries=1),
    "`seed` is 1.5 (float), expected None, an int": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets, seed=1.5),
    "`seed` is True (bool)": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets, seed=True),
    "`shift` is 1.0 (float), expected a whole number": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, shift=1.0
    ),
    "`ignore_index` is None, expected a whole number": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, ignore_index=None
    ),
    "`return_lse` is 'yes' (str), expected True or False": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, return_lse="yes"
    ),
    "`check_targets` is 1 (int)": lambda p: cce.linear_cross_entropy(p.e, p.c, p.targets, check_targets=1),
    "expected a tensor for `targets`, found list": lambda p: cce.linear_cross_entropy(p.e, p.c, [1, 2, 3, 4]),
    "expected a tensor for `main_grad`, found float": lambda p: cce.linear_cross_entropy(
        p.e, p.c, p.targets, main_grad=1.0
    ),
    "expected torch.float32\n": lambda p: _ended(
        cce.linear_cross_entropy, p.e, p.c, p.targets, main_grad=p.c.detach().bfloat16()
    ),
    "`entropy` is 1 (int)": lambda p: cce.token_logprobs(p.e, p.c, p.targets, entropy=1),
    "`reduction` is 'avg', expected": lambda p: cce.LinearCrossEntropy(reduction="avg"),
    "`return_lse` is 1 (int)": lambda p: cce.LinearCrossEntropy(return_lse=1),
    "`filter` is 'blocks', expected": lambda p: cce.LinearCrossEntropy(filter="blocks"),
    "`label_smoothing` is -0.1": lambda p: cce.LinearCrossEntropy(label_smoothing=-0.1),
    "`label_smoothing` is 2.0, expected a number from 0 to 1": lambda p: cce.LinearCrossEntropy(label_smoothing=2.0),
    "`softcap` is -1, expected None or a number above 0": lambda p: cce.LinearCrossEntropy(softcap=-1),
    "`softcap` has shape [2], expected one": lambda p: cce.LinearCrossEntropy(softcap=torch.ones(2)),
    "`logit_scale` is 'x' (str), expected None, a number": lambda p: cce.LinearCrossEntropy(logit_scale="x"),
    "`z_loss` is None, expected a number or": lambda p: cce.LinearCrossEntropy(z_loss=None),
    "`z_loss` has shape [3], expected one": lambda p: cce.LinearCrossEntropy(z_loss=torch.ones(3)),
    "`ignore_index` is 'a' (str), expected a whole number": lambda p: cce.LinearCrossEntropy(ignore_index="a"),
    "`ignore_index` is 9223372036854775808, expected": lambda p: cce.LinearCrossEntropy(ignore_index=2**63),
    "`weight` is 1.0 (float), expected None or a tensor [V]": lambda p: cce.LinearCrossEntropy(weight=1.0),
}


def test_numpy_s_numbers_are_numbers():
    p = problem(2, 5, vocab=2000)
    got = cce.linear_cross_entropy(
        p.e,
        p.c,
        p.targets,
        softcap=np.float32(8),
        shift=np.int64(1),
        seed=np.array(4),
        max_entries=np.int32(64),
        filter_eps=np.float64(2.0**-10),
        label_smoothing=np.array(0.0),
    )
    assert torch.equal(got, cce.linear_cross_entropy(p.e, p.c, p.targets, softcap=8, shift=1, seed=4, max_entries=64))


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_targets_out_of_range_are_refused_where_asked_with_their_place(shift, index):
    p = problem(3, 7, index=index)
    expected = cce.linear_cross_entropy(p.e, p.c, p.targets, shift=shift, filter="exact")
    got = cce.linear_cross_entropy(p.e, p.c, p.targets, shift=shift, filter="exact", check_targets=True)
    assert torch.equal(got, expected)
    p.targets[1, 3], p.targets[2, 6] = 300, -1
    for e, targets in [(p.e, p.targets), (p.e.transpose(0, 1).contiguous().transpose(0, 1), p.targets)]:
        with pytest.raises(IndexError) as raised:
            cce.linear_cross_entropy(e, p.c, targets, shift=shift, check_targets=True)
        assert "`targets[1, 3]` is 300, expected 0 to 299, or -100" in str(raised.value)
        assert "2 of 21 targets are out of range" in str(raised.value)
    assert cce.linear_cross_entropy(p.e, p.c, p.targets, shift=shift).isnan()
    # What is not paired with hidden states is not looked at.
    p.targets[1, 3], p.targets[2, 6], p.targets[0, 0] = 0, 0, 999
    if shift:
        cce.linear_cross_entropy(p.e, p.c, p.targets, shift=shift, check_targets=True)
    with pytest.raises(IndexError, match=r"`targets\[0, 0\]` is 999"):
        cce.token_logprobs(p.e, p.c, p.targets, check_targets=True)


def test_a_compiled_call_refuses_targets_too():
    p = problem(4, ignored=0.0)
    torch._dynamo.reset()
    function = torch.compile(
        lambda e, c, y: cce.linear_cross_entropy(e, c, y, check_targets=True), fullgraph=True, backend="aot_eager"
    )
    assert function(p.e, p.c, p.targets) > 0
    p.targets[2] = 300
    with pytest.raises(IndexError, match="target 300 of row 2 is out of range"):
        function(p.e, p.c, p.targets)


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_say_what_was_expected(message):
    with pytest.raises((TypeError, ValueError)) as raised:
        MISTAKES[message](problem(4, ignored=0.0))
    assert message in str(raised.value)


def test_a_filter_that_the_loss_does_not_allow_is_an_error():
    # The uniform part under a softcap has no factors to sample by.
    p = problem(4, vocab=2000)
    options = {"softcap": 5.0, "label_smoothing": 0.1}
    with pytest.raises(
        ValueError, match="`filter='sampled'` .* is not allowed here: .*; use `filter='exact'`"
    ) as raised:
        cce.linear_cross_entropy(p.e, p.c, p.targets, filter="sampled", **options)
    assert "Filter" not in str(raised.value) and "blocks" not in str(raised.value)
    assert cce.linear_cross_entropy(p.e, p.c, p.targets, **options) > 0
