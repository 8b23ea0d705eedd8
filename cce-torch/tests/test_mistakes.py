"""What is written wrongly in a loss of one's own is refused with what was expected, what was found, what to write."""

from __future__ import annotations

import functools
import sys

import cce_torch as cce
import numpy as np
import pytest
import torch
from cce_torch import _native
from conftest import problem


def nll(x, y):
    return cce.lse(x) - cce.at(x, y)


class Holder:
    def bound(self, x, y):
        return nll(x, y)


async def awaited(x, y):
    return nll(x, y)


def generated(x, y):
    yield nll(x, y)


# What `cce.loss` is given instead of a function.
NO_FUNCTIONS = {
    "found none: write `@cce.loss` above its `def`, without parentheses": lambda: cce.loss(),
    "nothing besides, found `reduction`: write `@cce.loss`, and give options where": lambda: cce.loss(reduction="sum"),
    "nothing besides, found `filter`": lambda: cce.loss(nll, filter="exact"),
    "nothing besides, found <function nll": lambda: cce.loss(nll, nll),
    "found tensors: it makes a loss of a function": lambda: cce.loss(torch.ones(2, 3), torch.ones(4, 3)),
    "`cce.linear_cross_entropy(e, c, targets)`": lambda: cce.loss(nll, targets=torch.ones(2)),
    "found 'gemma2' (str): write `@cce.loss` above the `def`": lambda: cce.loss("gemma2"),
    "found <cce loss nll>: it is a loss already": lambda: cce.loss(cce.loss(nll)),
    "(method): a loss has no object": lambda: cce.loss(Holder().bound),
    "(partial): give the function itself": lambda: cce.loss(functools.partial(nll)),
    "`awaited` is asynchronous, expected a plain function": lambda: cce.loss(awaited),
    "`generated` is a generator, expected a plain function": lambda: cce.loss(generated),
}


@pytest.mark.parametrize("message", NO_FUNCTIONS)
def test_what_is_no_function_is_refused_with_what_to_write(message):
    with pytest.raises(TypeError) as raised:
        NO_FUNCTIONS[message]()
    assert message in str(raised.value)


# Kinds where they do not belong.
KINDS = {
    "found a call of it: leave its parentheses out": lambda: cce.Row(),
    "as in `def my_loss(x, y, weight: cce.Col)`, found a call": lambda: cce.Col(torch.ones(3)),
    "found it in brackets": lambda: cce.Row[int],
    "`cce.Scalar` is the kind of an input, expected as an annotation in a loss": lambda: 2.0 * cce.Scalar,
    "found an operator on it: write the input's name": lambda: cce.Row < 3,
}


@pytest.mark.parametrize("message", KINDS)
def test_a_kind_that_is_used_as_a_value_says_where_it_belongs(message):
    with pytest.raises(TypeError) as raised:
        KINDS[message]()
    assert message in str(raised.value)


@pytest.mark.parametrize("name", ["row", "col", "scalar", "logit", "target", "ROW"])
def test_a_kind_written_small_is_named_as_it_is_written(name):
    with pytest.raises(AttributeError, match=f"did you mean `cce.{name.capitalize()}`"):
        getattr(cce, name)


def annotated(annotation, default=None):
    def loss(x, y, w):
        return w * nll(x, y)

    loss.__annotations__["w"] = annotation
    loss.__defaults__ = None if default is None else (default,)
    return loss


@pytest.mark.parametrize(
    "function, message",
    [
        (annotated(float), "`w: float` of `loss`: expected one of the kinds Logit, Target, Row, Col, Scalar"),
        (annotated(torch.Tensor), "write `w: cce.Row` for one number a token, `cce.Col` for one a vocabulary entry"),
        (annotated([cce.Row]), "expected one of the kinds"),
        (annotated("row"), "`w: row` of `loss`: expected one of the kinds"),
        (annotated(cce.Row | None), "expected one of the kinds"),
        (annotated(cce.Scalar, cce.Row), "found it as the default: write `w: cce.Row`"),
        (annotated(cce.Row, 1.0), "this is a Row: leave `= 1.0` out, and give the input in the call"),
        (annotated(cce.Scalar, torch.ones(())), "found a tensor of shape []: write a number"),
        (annotated(cce.Scalar, True), "found True (bool): write a number"),
        (annotated(cce.Scalar, np.bool_(True)), "found np.True_ (bool): write a number"),
        (annotated(cce.Scalar, np.complex64(1)), "expected a number as the default of a Scalar, found np.complex64("),
        (annotated(cce.Scalar, float("inf")), "expected a number that float32 can hold as the default of a Scalar"),
        (annotated(cce.Scalar, float("nan")), "found nan (float): write a number"),
        (annotated(cce.Scalar, 1e300), "found 1e+300 (float): write a number"),
        (annotated(cce.Scalar, -(10**400)), "00000... (int): write a number"),
        (Holder.bound, "`self` of `bound`: expected an input, found a method's object"),
    ],
)
def test_parameters_that_are_no_inputs_are_refused(function, message):
    with pytest.raises(cce.LossError) as raised:
        cce.loss(function)
    assert message in str(raised.value)


# Inside of a loss: what is written of its logits `x` and its target `y`, and what is said of it.
INSIDE = {
    "a kind annotates an input, `weight: cce.Row`: use the input": lambda x, y: cce.Row * nll(x, y),
    "the kind `Col` is used here": lambda x, y: nll(x, y) * cce.Col,
    "the condition of `where` is a value, expected a comparison": lambda x, y: cce.where(cce.lse(x), 1.0, 0.0),
    "the condition of `where` is True (bool)": lambda x, y: cce.where(True, cce.lse(x), 0.0),
    "`where` is given 2 arguments, expected condition, then, otherwise": lambda x, y: cce.where(cce.lse(x) > 1, x),
    "`lse` is given `dim`, expected z": lambda x, y: cce.lse(x, dim=-1),
    "a loss reduces over the vocabulary": lambda x, y: cce.mean(x, axis=-1),
    "`at` takes two arguments, and 1 is given": lambda x, y: cce.at(x),
    "`lse` takes one argument, and 2 are given": lambda x, y: cce.lse(x, -1),
    "a value of a loss is not a function": lambda x, y: x(y),
    "read a value at the target with `cce.at(z, y)`": lambda x, y: x[y],
    "help: use the functions of the language": lambda x, y: int(cce.lse(x)),
    "a value of a loss is not a number yet": lambda x, y: [1, 2, 3][y],
    "is not a number yet": lambda x, y: f"{x:.3f}",
    "a value of a loss has no parts": lambda x, y: 3 in x,
    "make another value": lambda x, y: x.__setitem__(0, 1.0),
    "comparisons are not combined in a loss": lambda x, y: (cce.lse(x) > 3) & (cce.lse(x) < 5),
    "instead of `~(a < b)` write `a >= b`": lambda x, y: ~(cce.lse(x) > 3),
    "error: comparisons are not combined in a loss": lambda x, y: torch.logical_and(cce.lse(x) > 3, cce.lse(x) < 5),
    "comparisons are not combined": lambda x, y: np.logical_or(cce.lse(x) > 3, cce.lse(x) < 5),
    "comparisons are not combined in": lambda x, y: torch.logical_not(cce.lse(x) > 3),
    "comparisons are not combined in a": lambda x, y: (cce.lse(x) > 1) == (cce.lse(x) > 2),
    "help: nest the choices": lambda x, y: (cce.lse(x) > 1) != (cce.lse(x) > 2),
    "nest the choices": lambda x, y: (cce.lse(x) > 1) < (cce.lse(x) > 2),
    "nest the choices: `cce.where(": lambda x, y: np.bool_(True) & (cce.lse(x) > 2),
    "there is no function `stack` in a loss": lambda x, y: torch.stack([cce.lse(x), cce.at(x, y)]),
    "there is no function `vstack` in a loss": lambda x, y: np.vstack([cce.lse(x), cce.at(x, y)]),
    "there is no function `relu` in a loss": lambda x, y: torch.relu(cce.lse(x) > 3),
    "a list is used here": lambda x, y: cce.exp([cce.lse(x), cce.at(x, y)]),
    "a comparison has no `float`": lambda x, y: (cce.lse(x) > 3).float(),
    "error: a comparison is not a number": lambda x, y: (cce.lse(x) > 3) % 2,
    "a comparison is used here, expected": lambda x, y: np.float64(2.0) * (cce.lse(x) > 3),
    "`torch.sub` is given `alpha` in a loss, expected two values alone": lambda x, y: torch.sub(
        cce.lse(x), cce.at(x, y), alpha=2
    ),
    "help: write `a - b`": lambda x, y: torch.sub(cce.lse(x), cce.at(x, y), alpha=2),
    "`np.add` is given `dtype` in a loss": lambda x, y: np.add(cce.lse(x), cce.at(x, y), dtype=np.float32),
    "`np.less` is given `where`": lambda x, y: np.less(cce.lse(x), 2.0, where=True),
    "`torch.pow` is given `exponent`": lambda x, y: torch.pow(cce.lse(x), exponent=2),
    "`np.max` is given `axis` in a loss": lambda x, y: np.max(x, axis=-1),
    "the condition of `where` is True": lambda x, y: np.where(True, cce.lse(x), 0.0),
    "a comparison is not a number": lambda x, y: (cce.lse(x) > 3) * cce.at(x, y),
    "`cce.where(a > b, 1.0, 0.0)`": lambda x, y: cce.at(x, y) * (cce.lse(x) > 3),
    "a comparison is used here": lambda x, y: cce.lse(x) > 3,
    "a tuple is used here": lambda x, y: (cce.lse(x), cce.at(x, y)),
    "`{'loss': ..., 'lse': ...}`": lambda x, y: [cce.lse(x)],
    "returns no output": lambda x, y: {},
    "write 1.0 or 0.0": lambda x, y: True * cce.lse(x),
    "the literal inf is not a finite number": lambda x, y: cce.lse(x) * 10**400,
    "a bool is used here, expected a value of the loss or a number": lambda x, y: nll(x, y) ** True,
    "a bool is used here": lambda x, y: nll(x, y) ** np.bool_(True),
    "a bool is used here, expected": lambda x, y: nll(x, y) * np.bool_(True),
    "help: write 1.0 or 0.0": lambda x, y: np.bool_(True) * nll(x, y),
    "a complex is used here": lambda x, y: nll(x, y) * 2j,
    "a complex64 is used here": lambda x, y: nll(x, y) * np.complex64(2),
    "a loss computes with real numbers": lambda x, y: np.complex64(2) * nll(x, y),
    "this operator is not in the language": lambda x, y: pow(nll(x, y), 2, 3),
    "a Tensor is used here, expected": lambda x, y: np.multiply(nll(x, y), torch.tensor(2.0)),
    "a Tensor is used here": lambda x, y: torch.tensor(2.0) * cce.lse(x),
    "a ndarray is used here": lambda x, y: np.ones(3) * cce.lse(x),
    "`torch.max` is given `dim` in a loss, expected its values alone": lambda x, y: torch.max(cce.lse(x), dim=0),
    "`torch.where` is given `other`": lambda x, y: torch.where(cce.lse(x) > 1, other=x, input=y),
    "there is no function `log` in a loss": lambda x, y: np.log(cce.lse(x)),
    "there is no function `add.reduce` in a loss": lambda x, y: np.add.reduce(x),
    "`cce.where(a < b, ..., ...)`": lambda x, y: torch.frac(cce.lse(x)),
}


@pytest.mark.parametrize("message", INSIDE)
def test_mistakes_inside_of_a_loss_are_shown_where_they_stand(message):
    with pytest.raises(cce.LossError) as raised:
        cce.loss(INSIDE[message])
    assert message in str(raised.value) and "test_mistakes.py:" in str(raised.value)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the interpreter does not say where in a line it is")
def test_the_mark_stands_below_the_expression_whatever_letters_are_before_it():
    with pytest.raises(cce.LossError) as raised:
        cce.loss(lambda x, y: ("größer", cce.lse(x, -1))[1])
    *_, source, mark = str(raised.value).splitlines()
    begin = mark.index("^")
    assert source[begin : begin + mark.count("^")] == "cce.lse(x, -1)"


def caught_and_forgotten(x, y):
    try:
        x.exp()
    except ValueError:
        pass
    return nll(x, y)


def caught_and_used(x, y):
    try:
        scale = float(cce.lse(x))
    except ValueError:
        scale = 1.0
    return scale * nll(x, y)


def caught_and_another_raised(x, y):
    try:
        x[y]
    except ValueError:
        raise KeyError("y") from None


def caught_by_numpy(x, y):
    np.array([[x], [y]], dtype=np.float32)
    return nll(x, y)


@pytest.mark.parametrize(
    "function, line, message",
    [
        (caught_and_forgotten, 2, "a value of a loss has no `exp`"),
        (caught_and_used, 2, "a value of a loss is not a number yet"),
        (caught_and_another_raised, 2, "a value of a loss has no parts"),
        (caught_by_numpy, 1, "a value of a loss has no parts"),
    ],
)
def test_a_mistake_that_is_caught_still_is_the_one_that_is_shown(function, line, message):
    with pytest.raises(cce.LossError) as raised:
        cce.loss(function)
    assert f"error: {message}" in str(raised.value)
    assert f"test_mistakes.py:{function.__code__.co_firstlineno + line}" in str(raised.value)


def test_an_exception_of_the_function_s_own_is_the_caller_s():
    def wrong(x, y):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        cce.loss(wrong)


def test_no_mistake_is_shown_inside_of_the_package():
    def wrong(x, y):
        return cce.tune((3, 4), (10, 4), gradients=x)

    with pytest.raises(cce.LossError) as raised:
        cce.loss(wrong)
    assert f"test_mistakes.py:{wrong.__code__.co_firstlineno + 1}" in str(raised.value)


def test_functions_of_the_language_say_what_they_are_for_outside_of_a_loss():
    for wrong in (torch.ones(3), 1.0, None):
        with pytest.raises(TypeError, match="expected a value of a loss, found .* inside of `@cce.loss` functions"):
            cce.lse(wrong)
    with pytest.raises(TypeError, match="expected a value of a loss, found nothing"):
        cce.lse()
    with pytest.raises(TypeError, match="the condition of `where` is True"):
        cce.where(1 < 2, 1.0, 2.0)
    with pytest.raises(TypeError, match="`where` is given 2 arguments"):
        cce.where(True, 1.0)


def test_a_value_that_outlived_its_loss_says_so_whatever_is_done_with_it():
    kept = []
    cce.loss(lambda x, y: kept.append(x) or nll(x, y))
    for use in (bool, len, float, lambda x: x.exp, lambda x: x[0], lambda x: x + 1, lambda x: bool(x < 1)):
        with pytest.raises(cce.LossError, match="a value of the loss `loss` is used outside of it"):
            use(kept[0])


def same(one, other):
    return _native.describe(cce.loss(one).program).hash == _native.describe(cce.loss(other).program).hash


def test_functions_and_numbers_of_numpy_are_those_of_the_language():
    assert same(lambda x, y: np.tanh(np.float32(2.0) * nll(x, y)), lambda x, y: cce.tanh(2.0 * nll(x, y)))
    assert same(lambda x, y: nll(x, y) / np.int64(3), lambda x, y: nll(x, y) / 3.0)
    assert same(lambda x, y: nll(x, y) / np.array(3), lambda x, y: nll(x, y) / 3.0)
    for two in (np.int64(2), np.uint8(2), np.array(2)):
        assert same(lambda x, y: nll(x, y) ** two, lambda x, y: nll(x, y) ** 2)
        assert same(lambda x, y: np.power(nll(x, y), two), lambda x, y: nll(x, y) ** 2)
    p = problem(20)
    floored = cce.loss(lambda x, y: cce.where(np.float64(6.0) < nll(x, y), nll(x, y), 6.0))
    plain = cce.loss(lambda x, y: cce.max(nll(x, y), 6.0))
    got, expected = (loss(p.e, p.c, p.targets, reduction="none") for loss in (floored, plain))
    assert torch.equal(got, expected) and (expected == 6.0).any() and (expected > 6.0).any()


def test_numpy_s_choice_is_the_language_s():
    assert same(
        lambda x, y: np.where(nll(x, y) < 6.0, np.float64(6.0), nll(x, y)),
        lambda x, y: cce.where(nll(x, y) < 6.0, 6.0, nll(x, y)),
    )
    assert same(lambda x, y: np.mean(x) - cce.at(x, y), lambda x, y: cce.mean(x) - cce.at(x, y))


def test_torch_s_power_of_a_value_is_the_operator():
    # The language's `pow` takes no negative base.
    assert same(lambda x, y: torch.pow(nll(x, y), 2), lambda x, y: nll(x, y) ** 2)
    assert same(lambda x, y: np.power(2.0, nll(x, y)), lambda x, y: 2.0 ** nll(x, y))
    assert same(lambda x, y: torch.mul(nll(x, y), 2.0), lambda x, y: nll(x, y) * 2.0)
    assert same(lambda x, y: torch.true_divide(nll(x, y), 2.0), lambda x, y: nll(x, y) / 2.0)


def inside_of_a_loss(option):
    return lambda loss, p: cce.loss(lambda x, y: loss_of_options(p, **{option: x}))


def loss_of_options(p, **options):
    return cce.linear_cross_entropy(p.e, p.c, p.targets, **options)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda loss, p: loss(torch.randn(4, 300), p.targets), "expected targets, found none: call `capped(e, c, t"),
        (lambda loss, p: loss(p.e, p.c, p.targets, 3.0), "is given 4 arguments by their place, expected three at most"),
        (lambda loss, p: loss(p.e, p.c, p.targets, 3.0), "as in `capped(e, c, targets, cap=...)`"),
        (
            lambda loss, p: loss(p.e, p.c, p.targets),
            "the Scalar input `cap` is missing, expected it by name: `cap=...`",
        ),
        (lambda loss, p: loss(p.e, torch.nn.Linear(24, 300), p.targets, cap=3.0), "such as `head.weight`"),
        (lambda loss, p: cce.loss(lambda x, y: loss(x, y, y, cap=2.0)), "inside of a loss write formulas"),
        (lambda loss, p: cce.loss(lambda x, y: cce.linear_cross_entropy(x, y, y)), "inside of a loss write formulas"),
        (inside_of_a_loss("softcap"), "`softcap` is <value of the loss `loss`> (Value), expected None, a number or"),
        (inside_of_a_loss("z_loss"), "`z_loss` is <value of the loss `loss`> (Value), expected a number or a tensor"),
        (inside_of_a_loss("shift"), "`shift` is <value of the loss `loss`> (Value), expected a whole number"),
        (inside_of_a_loss("filter_eps"), "`filter_eps` is <value of the loss `loss`> (Value), expected None or a"),
        (inside_of_a_loss("max_entries"), "`max_entries` is <value of the loss `loss`> (Value), expected a whole"),
    ],
)
def test_calls_that_do_not_fit_say_how_a_loss_is_called(call, message):
    @cce.loss
    def capped(x, y, cap):
        z = cap * cce.tanh(x / cap)
        return nll(z, y)

    p = problem(4)
    with pytest.raises(TypeError) as raised:
        call(capped, p)
    assert message in str(raised.value)
