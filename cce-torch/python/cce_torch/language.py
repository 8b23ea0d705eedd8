"""The language of losses: the kinds of inputs, and the functions of symbolic values.

Their operators are in ``_values``; what is written with both is recorded in a ``Trace``, with the checks and messages
of the Rust macro.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ._values import Number, Value, call, function
from ._values import where as where


class LossError(ValueError):
    """A loss that is not valid: all its mistakes, each with its place and what to write instead."""


class Kind(type):
    """The type of the kinds: they annotate inputs, and have no values."""

    def __call__(cls, *_: Any, **__: Any) -> NoReturn:
        """Refused."""
        cls._refuse("a call of it: leave its parentheses out, and give the values where the loss is called")

    def __getitem__(cls, _: Any) -> NoReturn:
        cls._refuse("it in brackets: leave them out")

    def _no_operator(cls, other: Any = None, *_: Any) -> Any:
        # A value says where it stands.
        if isinstance(other, Value):
            return NotImplemented
        cls._refuse("an operator on it: write the input's name")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _no_operator
    __pow__ = __rpow__ = __neg__ = __lt__ = __le__ = __gt__ = __ge__ = _no_operator

    def _refuse(cls, found: str) -> NoReturn:
        raise TypeError(
            f"`cce.{cls.__name__}` is the kind of an input, expected as an annotation in a loss, as in "
            f"`def my_loss(x, y, weight: cce.{cls.__name__})`, found {found}"
        )


class Logit(metaclass=Kind):
    """Kind: the raw logit ``E_i . C_j``, one value a token and vocabulary entry. Exactly one a loss."""


class Target(metaclass=Kind):
    """Kind: the target's index, for ``at(_, y)`` alone. At most one a loss."""


class Row(metaclass=Kind):
    """Kind: one f32 a token."""


class Col(metaclass=Kind):
    """Kind: one f32 a vocabulary entry."""


class Scalar(metaclass=Kind):
    """Kind: one f32 a call."""


@function
def exp(a: Number) -> Value:
    """e to the power a."""
    return call("exp", a)


@function
def expm1(a: Number) -> Value:
    """exp(a) - 1, exact near 0."""
    return call("expm1", a)


@function
def ln(a: Number) -> Value:
    """The natural logarithm."""
    return call("ln", a)


@function
def log1p(a: Number) -> Value:
    """ln(1 + a), exact near 0."""
    return call("log1p", a)


@function
def tanh(a: Number) -> Value:
    """The hyperbolic tangent."""
    return call("tanh", a)


@function
def sigmoid(a: Number) -> Value:
    """1 / (1 + exp(-a))."""
    return call("sigmoid", a)


@function
def log_sigmoid(a: Number) -> Value:
    """ln(sigmoid(a)) without overflow."""
    return call("log_sigmoid", a)


@function
def softplus(a: Number) -> Value:
    """ln(1 + exp(a)) without overflow."""
    return call("softplus", a)


@function
def sqrt(a: Number) -> Value:
    """The square root."""
    return call("sqrt", a)


@function
def abs(a: Number) -> Value:
    """The absolute value; its gradient at 0 is 0."""
    return call("abs", a)


@function
def pow(a: Number, b: Number) -> Value:
    """a to the power b, any real b; a is not negative."""
    return call("pow", a, b)


@function
def min(a: Number, b: Number) -> Value:
    """The smaller of two; the first at ties."""
    return call("min", a, b)


@function
def max(a: Number, *b: Number) -> Value:
    """The larger of two, the first at ties; of one Logit or Col the largest over the vocabulary, without a gradient."""
    return call("max", a, *b)


@function
def lse(z: Value) -> Value:
    """The logarithm of the sum of exp(z) over the vocabulary."""
    return call("lse", z)


@function
def at(z: Value, y: Value) -> Value:
    """The value at the target."""
    return call("at", z, y)


@function
def mean(z: Value) -> Value:
    """The mean over the vocabulary."""
    return call("mean", z)


@function
def expect(z: Value, f: Value) -> Value:
    """The sum of softmax(z) * f over the vocabulary."""
    return call("expect", z, f)


@function
def argmax(z: Value) -> Value:
    """The vocabulary entry with the largest z, without a gradient."""
    return call("argmax", z)
