"""Losses as Python functions: the same programs, checks and messages as in Rust."""

from __future__ import annotations

import copy
import pickle
import re

import cce_torch as cce
import pytest
import torch
from cce_torch import _declare, _native
from conftest import DEVICE, distance, doubled, logits, problem


@cce.loss
def gemma2(x, y, bias: cce.Col, weight: cce.Row, cap, zw):
    """Everything at once."""
    z = cap * cce.tanh((x + bias) / cap)
    l = cce.lse(z)
    return {"loss": weight * (l - cce.at(z, y) + zw * l * l), "lse": l, "entropy": l - cce.expect(z, z)}


def test_a_loss_with_inputs_of_every_kind_and_three_outputs():
    p = problem(3, 7)
    bias = torch.linspace(-1, 1, 300, device=DEVICE, requires_grad=True)
    weight = torch.rand(3, 7, device=DEVICE).requires_grad_()
    cap = torch.tensor(6.0, device=DEVICE, requires_grad=True)
    got = gemma2(p.e, p.c, p.targets, bias=bias, weight=weight, cap=cap, zw=1e-2, filter="exact")
    (got.loss + got.lse.sin().sum() + 0.3 * got.entropy.sum()).backward()

    e, c, wide_bias, wide_weight, wide_cap = doubled(p.e, p.c, bias, weight, cap)
    z = logits(e, c, wide_bias, None, wide_cap)
    counts = p.targets != -100
    lse = torch.logsumexp(z, -1)
    at = z.gather(-1, torch.where(counts, p.targets, 0)[..., None])[..., 0]
    probability = torch.softmax(z, -1)
    entropy = (lse - (probability * z).sum(-1)) * counts
    loss = (wide_weight * (lse - at + 1e-2 * lse**2) * counts).sum() / counts.sum()
    (loss + (lse * counts).sin().sum() + 0.3 * entropy.sum()).backward()
    assert gemma2.__doc__ == "Everything at once."
    assert got._fields == ("loss", "lse", "entropy")
    assert distance(got.loss, loss) < 1e-6 and distance(got.entropy, entropy) < 1e-6
    for ours, theirs in [(p.e, e), (p.c, c), (bias, wide_bias), (weight, wide_weight), (cap, wide_cap)]:
        assert distance(ours.grad, theirs.grad) < 3e-6


def test_a_loss_is_what_the_function_shipped_computes():
    @cce.loss
    def plain(x, y):
        return cce.lse(x) - cce.at(x, y)

    assert _native.describe(plain.program).hash == _native.describe(RUST_CROSS_ENTROPY).hash
    p = problem(9)
    assert torch.equal(plain(p.e, p.c, p.targets), cce.linear_cross_entropy(p.e, p.c, p.targets))


RUST_CROSS_ENTROPY = """{"schema": 1, "name": "cross_entropy", "doc": "",
 "inputs": [{"name": "x", "kind": "Logit"}, {"name": "y", "kind": "Target"}],
 "nodes": [["input", "x"], ["lse", 0], ["at", 0, "y"], ["-", 1, 2]],
 "outputs": [{"name": "loss", "node": 3}]}"""


def test_a_choice_is_taken_value_by_value():
    @cce.loss
    def clipped(x, y, low):
        nll = cce.lse(x) - cce.at(x, y)
        return cce.where(nll < low, 0.5 * nll**2, nll - 1) + cce.max(nll, 2.0) + abs(nll)

    p = problem(20, ignored=0.0)
    losses = clipped(p.e, p.c, p.targets, low=3.0, reduction="none", filter="exact")
    nll = -torch.log_softmax(p.e.double() @ p.c.double().T, -1).gather(-1, p.targets[:, None])[:, 0]
    expected = torch.where(nll < 3.0, 0.5 * nll**2, nll - 1) + nll.clamp_min(2.0) + nll
    assert distance(losses, expected) < 1e-6
    assert (nll < 3.0).any() and (nll > 3.0).any()


@cce.loss
def squares(x, scale: cce.Scalar):
    return cce.mean(scale * x * x)


def test_a_loss_without_a_target_takes_none():
    p = problem(5)
    loss = squares(p.e, p.c, scale=2.0)
    assert distance(loss, 2 * ((p.e.double() @ p.c.double().T) ** 2).mean()) < 1e-6
    with pytest.raises(TypeError, match="expected no targets"):
        squares(p.e, p.c, p.targets, scale=2.0)


def test_an_output_without_a_gradient_is_only_looked_at():
    @cce.loss
    def accuracy(x, y):
        return {"loss": cce.lse(x) - cce.at(x, y), "best": cce.argmax(x), "top": cce.max(x)}

    p = problem(2, 6, ignored=0.0)
    got = accuracy(p.e, p.c, p.targets, reduction="none", filter="exact")
    z = p.e @ p.c.T
    assert torch.equal(got.best.long(), z.argmax(-1)) and not got.best.requires_grad
    assert distance(got.top, z.amax(-1)) < 1e-6
    got.loss.sum().backward()
    (wide_e, wide_c) = doubled(p.e, p.c)
    torch.nn.functional.cross_entropy(
        (wide_e @ wide_c.T).flatten(0, 1), p.targets.flatten(), reduction="sum"
    ).backward()
    assert distance(p.e.grad, wide_e.grad) < 2e-6
    with pytest.raises(ValueError, match="`shift` pairs hidden states with later targets"):
        squares(p.e, p.c, scale=2.0, shift=1)


def test_row_inputs_follow_the_shift():
    @cce.loss
    def weighted(x, y, weight: cce.Row):
        return weight * (cce.lse(x) - cce.at(x, y))

    p = problem(2, 6)
    weight = torch.rand(2, 5, device=DEVICE)
    got = weighted(p.e, p.c, p.targets, weight=weight, shift=1, reduction="none", filter="exact")
    plain = cce.linear_cross_entropy(p.e, p.c, p.targets, shift=1, reduction="none", filter="exact")
    assert distance(got, weight * plain) < 1e-6


def test_every_function_of_the_language_is_a_function_here():
    for name, _, meaning in _native.functions():
        assert callable(getattr(cce, name)), name
        documented = getattr(cce, name).__doc__
        assert documented.lower().startswith(meaning.lower().split(";")[0].split(",")[0]), name


def test_torch_s_functions_are_those_of_the_language_where_they_share_a_name():
    @cce.loss
    def mixed(x, y):
        return torch.sqrt(torch.exp(cce.lse(x) - cce.at(x, y)))

    @cce.loss
    def pure(x, y):
        return cce.sqrt(cce.exp(cce.lse(x) - cce.at(x, y)))

    assert _native.describe(mixed.program).hash == _native.describe(pure.program).hash


def inside(x, y):
    l = cce.lse(x)
    smooth = cce.mean(x - l)
    return l - cce.at(x, y) + smooth


def two_softmaxes(x, y):
    return cce.lse(x) + cce.lse(2 * x) - cce.at(x, y)


def unused(x, y, cap):
    return cce.lse(x) - cce.at(x, y)


def condition(x, y):
    nll = cce.lse(x) - cce.at(x, y)
    if nll < 3:
        return nll
    return 2 * nll


def builtin(x, y):
    return min(cce.lse(x), cce.at(x, y))


def truth(x, y):
    return cce.lse(x) if cce.at(x, y) else 0


def target_as_number(x, y):
    return cce.lse(x) - y


def torch_function(x, y):
    return -torch.log_softmax(x, -1)


def tensor(x, y):
    return cce.lse(x) + torch.ones(3)


def nothing(x, y):
    cce.lse(x) - cce.at(x, y)


def not_reduced(x, y):
    return x * x


def math_function(x, y):
    import math

    return math.exp(cce.lse(x))


def torch_lse(x, y):
    return torch.logsumexp(x, dim=-1) - cce.at(x, y)


def torch_cross_entropy(x, y):
    return torch.nn.functional.cross_entropy(x, y, reduction="none")


def method(x, y):
    return x.exp() - cce.at(x, y)


def remainder(x, y):
    return cce.lse(x) - cce.at(x, y) % 2


def length(x, y):
    return cce.lse(x) / len(x) - cce.at(x, y)


def option_as_input(x, y, seed, reduction: cce.Row):
    return seed * (cce.lse(x) - cce.at(x, y)) * reduction


def output_without_a_name(x, y):
    return {"loss": cce.lse(x) - cce.at(x, y), "class": cce.lse(x)}


WRONG = {
    torch_lse: ["there is no function `logsumexp` in a loss", "write `cce.lse(z)`", ":{2}:"],
    torch_cross_entropy: ["there is no function `cross_entropy` in a loss", ":{2}:"],
    method: ["a value of a loss has no `exp`", "`cce.exp(a)`, not `a.exp()`", ":{2}:"],
    remainder: ["this operator is not in the language", "`+ - * / **`", ":{2}:"],
    length: ["a value of a loss has no parts", ":{2}:"],
    option_as_input: [
        "the input `seed` has the name of an option of the call",
        "the input `reduction` has the name of an option of the call",
        "`seed_` say",
    ],
    output_without_a_name: ["the output 'class' cannot have this name"],
    inside: ["`l`, which is `lse(x)`, is a reduction inside the argument of `mean`", "`cce.mean(x) - l`", ":{3}:"],
    two_softmaxes: ["softmax", ":{2}:"],
    unused: ["no output depends on the input `cap`", "use it, or remove it"],
    condition: ["a comparison of values has no truth", "cce.where(a < b, x, y)", ":{3}:"],
    builtin: ["a comparison of values has no truth", "`cce.min(a, b)`"],
    truth: ["a value of a loss has no truth", "cce.where(a > 0.0, x, y)"],
    target_as_number: ["`y` is a Target, an index into the vocabulary, not a number", "`cce.at(..., y)`"],
    torch_function: ["there is no function `log_softmax` in a loss", "`cce.at(z, y) - cce.lse(z)`"],
    tensor: ["a Tensor is used here", "add a parameter for it"],
    nothing: ["`loss` is None: the function returns no value", "return the loss of one token"],
    not_reduced: ["`loss`"],
    math_function: ["a value of a loss is not a number yet", "`cce.exp(a)`, not `math.exp(a)`"],
}


@pytest.mark.parametrize("function", WRONG, ids=lambda function: function.__name__)
def test_what_is_wrong_is_said_where_it_is_with_what_to_write_instead(function):
    with pytest.raises(cce.LossError) as raised:
        cce.loss(function)
    text = str(raised.value)
    first = function.__code__.co_firstlineno
    for part in WRONG[function]:
        for line in range(1, 6):
            part = part.replace(f":{{{line}}}:", f"test_language.py:{first + line - 1}")
        assert part in text, text


def test_all_mistakes_are_reported_at_once():
    def wrong(x, y):
        return cce.mean(x - cce.lse(x)) + torch.log(cce.at(x, y)) + cce.at(x, 1.0)

    with pytest.raises(cce.LossError) as raised:
        cce.loss(wrong)
    assert str(raised.value).count("error:") == 3


def test_inputs_that_do_not_fit_are_errors():
    p = problem(4)
    good = {"bias": p.c[:, 0].detach(), "weight": torch.ones(4, device=DEVICE), "cap": 5.0, "zw": 0.0}
    for change, message in [
        ({"cap": None}, "`cap` is None, expected a number or a tensor of one element"),
        ({"weight": torch.ones(5, device=DEVICE)}, r"Row input `weight` has shape \[5\], expected \[4\]"),
        ({"weight": 1.0}, "the Row input `weight` is 1.0 \\(float\\), expected a tensor"),
        ({"cap": torch.ones(2, device=DEVICE)}, "expected one element"),
        ({"other": 1.0}, "there is no input `other`, expected bias, weight, cap, zw"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            gemma2(p.e, p.c, p.targets, **(good | change))
    del good["zw"]
    with pytest.raises(TypeError, match="the Scalar input `zw` is missing"):
        gemma2(p.e, p.c, p.targets, **good)


def test_a_value_outside_of_its_loss_is_an_error():
    with pytest.raises(TypeError, match="inside of `@cce.loss` functions"):
        cce.tanh(1.0)
    kept = []
    cce.loss(lambda x, y: kept.append(x) or cce.lse(x) - cce.at(x, y))
    with pytest.raises(cce.LossError, match="value of another loss"):
        cce.loss(lambda x, y: cce.lse(x) - cce.at(x, y) + kept[0])
    with pytest.raises(cce.LossError, match="a value of the loss `loss` is used outside of it"):
        cce.loss(lambda x, y: cce.lse(x) - cce.at(x, y) + cce.lse(kept[0]))


def test_kinds_are_annotations_and_others_are_refused():
    def wrong(x, y: float):
        return cce.lse(x)

    with pytest.raises(cce.LossError, match="Logit, Target, Row, Col, Scalar"):
        cce.loss(wrong)
    inputs = _declare.inputs_of(lambda x, y, cap: None)
    assert [(one.name, one.kind) for one in inputs] == [("x", "Logit"), ("y", "Target"), ("cap", "Scalar")]


def test_a_scalar_may_have_a_default_which_a_call_may_give_otherwise():
    @cce.loss
    def capped(x, y, *, cap=20.0, zw: cce.Scalar = 0):
        z = cap * cce.tanh(x / cap)
        l = cce.lse(z)
        return l - cce.at(z, y) + zw * l * l

    p = problem(6)
    for given in ({}, {"cap": 7.0}, {"cap": torch.tensor(7.0, device=DEVICE), "zw": 0.5}):
        options = {"softcap": given.get("cap", 20.0), "z_loss": given.get("zw", 0.0)}
        expected = cce.linear_cross_entropy(p.e, p.c, p.targets, **options)
        assert distance(capped(p.e, p.c, p.targets, **given), expected) < 1e-6


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda x, y, cap="20": cap * cce.lse(x), "expected a number as the default of a Scalar"),
        (lambda x, y=3: cce.lse(x) - cce.at(x, y), "expected no default, which only a Scalar may have"),
    ],
)
def test_other_defaults_are_refused(function, message):
    with pytest.raises(cce.LossError, match=message):
        cce.loss(function)


@pytest.mark.parametrize(
    "name, advice",
    [
        ("logsumexp", "write `cce.lse(z)`"),
        ("log", "cce.ln"),
        ("sign", "write `cce.where(a < 0.0, -1.0, 1.0)`"),
        ("frobnicate", "the functions are exp, "),
        ("frobnicate", "to choose, write `cce.where(a < b, ..., ...)`"),
        ("patch", "it is `cce_torch.transformers.patch`, after `import cce_torch.transformers`"),
        ("linear_crossentropy", "did you mean"),
    ],
)
def test_names_that_are_not_there_are_refused_with_what_to_write(name, advice):
    with pytest.raises(AttributeError, match=f"has no attribute '{name}'.*{re.escape(advice)}"):
        getattr(cce, name)
    assert not hasattr(cce, "__wrapped__") and not hasattr(cce, name)


def test_torch_s_choice_is_the_language_s():
    @cce.loss
    def bounded(x, y):
        nll = cce.lse(x) - cce.at(x, y)
        return torch.where(nll > 5.0, 5.0 + 0.1 * nll, nll)

    @cce.loss
    def own(x, y):
        nll = cce.lse(x) - cce.at(x, y)
        return cce.where(nll > 5.0, 5.0 + 0.1 * nll, nll)

    assert _native.describe(bounded.program).hash == _native.describe(own.program).hash


def test_a_loss_is_pickled_and_copied_with_its_defaults():
    @cce.loss
    def capped(x, y, cap=5.0):
        """Capped."""
        z = cap * cce.tanh(x / cap)
        return {"loss": cce.lse(z) - cce.at(z, y), "lse": cce.lse(z)}

    p = problem(5)
    for other in (pickle.loads(pickle.dumps(capped)), copy.deepcopy(capped)):
        assert (other.__name__, other.__doc__, other.defaults) == ("capped", "Capped.", {"cap": 5.0})
        assert torch.equal(other(p.e, p.c, p.targets).lse, capped(p.e, p.c, p.targets).lse)


def test_a_loss_prints_what_was_understood_and_derived():
    assert "cap * tanh" in gemma2.dump()
    assert "gradient" in gemma2.dump("gradient").lower() or "p" in gemma2.dump("gradient")
    assert repr(gemma2) == "<cce loss gemma2>"
