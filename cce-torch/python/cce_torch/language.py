"""Losses as Python functions: traced once into a program, with the checks and messages of the Rust macro.

A loss is a function of one token's values. It is called once, with symbolic values, when it is declared; what it
returns is the program. Kinds are those of the language: a parameter annotated ``Logit``, ``Target``, ``Row``,
``Col`` or ``Scalar`` is one; without annotations the first is the Logit, the second the Target, all others Scalars.
"""

from __future__ import annotations

import builtins
import inspect
import keyword
import linecache
import re
import sys
from collections.abc import Callable, Collection, Mapping
from types import FrameType
from typing import Any, NoReturn, Union

from . import _native

Number = Union["Value", float, int]


class LossError(ValueError):
    """A loss that is not valid: all its mistakes, each with its place and what to write instead."""


class Logit:
    """Kind: the raw logit ``E_i . C_j``, one value a token and vocabulary entry. Exactly one a loss."""


class Target:
    """Kind: the target's index, for ``at(_, y)`` alone. At most one a loss."""


class Row:
    """Kind: one f32 a token."""


class Col:
    """Kind: one f32 a vocabulary entry."""


class Scalar:
    """Kind: one f32 a call."""


_KINDS: dict[Any, str] = {kind: kind.__name__ for kind in (Logit, Target, Row, Col, Scalar)}
_THIS_FILE = __file__


def _is_ours(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__", "")
    return frame.f_code.co_filename == _THIS_FILE or module == "torch" or module.startswith("torch.")


class _Sites:
    """Places in the user's source, by number."""

    def __init__(self) -> None:
        self.places: list[tuple[str, int, int | None, int | None]] = []

    def of(self, filename: str, line: int, start: int | None = None, end: int | None = None) -> int:
        self.places.append((filename, line, start, end))
        return len(self.places) - 1

    def here(self) -> tuple[int, FrameType]:
        """The place of the innermost frame outside of this module, and of torch, whose functions come back to it."""
        frame = sys._getframe(1)
        while _is_ours(frame) and frame.f_back is not None:
            frame = frame.f_back
        start = end = None
        if sys.version_info >= (3, 11):
            positions = list(frame.f_code.co_positions())
            first, last, start, end = positions[frame.f_lasti // 2]
            if first != last:
                start = end = None
        return self.of(frame.f_code.co_filename, frame.f_lineno, start, end), frame

    def show(self, site: int) -> str:
        filename, line, start, end = self.places[site]
        source = linecache.getline(filename, line).rstrip("\n")
        column = "" if start is None else f":{start + 1}"
        text = f" --> {filename}:{line}{column}"
        if source:
            margin = " " * len(str(line))
            text += f"\n{margin} |\n{line} | {source}"
            if start is not None and end is not None:
                marks = "^" * builtins.max(1, end - start)
                text += f"\n{margin} | {' ' * start}{marks}"
        return text

    def line(self, site: int) -> int:
        return self.places[site][1]


class Trace:
    """One tracing of a function."""

    def __init__(self, name: str, doc: str, filename: str, line: int) -> None:
        self.sites = _Sites()
        self.whole = self.sites.of(filename, line)
        self.name = name
        self.builder = _native.Builder(self.whole, name, doc)
        self.bound: dict[str, Value] = {}
        self.finished = False

    def input(self, site: int, name: str, kind: str) -> Value:
        """Declares the next input."""
        value = Value(self, self.builder.input(site, name, kind))
        self.bound[name] = value
        return value

    def learn_names(self, frame: FrameType) -> None:
        """Binds what the user's function has assigned since: messages call values by these names."""
        for name, value in frame.f_locals.items():
            if isinstance(value, Value) and value.trace is self and self.bound.get(name) is not value:
                self.builder.bind(name, value.handle)
                self.bound[name] = value

    def operand(self, site: int, value: Any) -> int:
        """The handle of a value or a number, mentioned at this place."""
        if isinstance(value, Value):
            if value.trace is not self:
                return self.builder.error(
                    site, "a value of another loss is used here", "use each value only in the loss that it belongs to"
                )
            for name, bound in self.bound.items():
                if bound is value:
                    return self.builder.lookup(site, name)
            return value.handle
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self.builder.constant(site, float(value))
        help = "a value that changes from call to call is an input of the loss: add a parameter for it"
        return self.builder.error(
            site, f"a {type(value).__name__} is used here, expected a value of the loss or a number", help
        )

    def finish(self) -> str:
        """The program's text; raises LossError with all mistakes."""
        self.finished = True
        text, mistakes = self.builder.finish()
        if text is not None:
            return text
        parts = []
        for site, related, message, help in mistakes:
            lines = [f"error: {message}"]
            if related is not None and self.sites.line(related) != self.sites.line(site):
                lines.append(f"  note: see also line {self.sites.line(related)}")
            if help:
                lines.append(f"  help: {help}")
            lines.append(self.sites.show(site))
            parts.append("\n".join(lines))
        raise LossError(f"`{self.name}` is not a valid loss:\n" + "\n\n".join(parts))


def _trace_of(values: tuple[Any, ...]) -> Trace | None:
    return next((value.trace for value in values if isinstance(value, Value)), None)


def _operation(make: Callable[[Trace, int, list[int]], int], *values: Any) -> Value:
    trace = _trace_of(values)
    if trace is None:
        raise TypeError("expected a value of a loss: functions of the language work inside of `@cce.loss` functions")
    if trace.finished:
        raise LossError(
            f"a value of the loss `{trace.name}` is used outside of it: use each value only in its own loss"
        )
    site, frame = trace.sites.here()
    trace.learn_names(frame)
    handles = [trace.operand(site, value) for value in values]
    return Value(trace, make(trace, site, handles))


def _call(name: str, *values: Any) -> Value:
    return _operation(lambda trace, site, handles: trace.builder.call(site, name, handles), *values)


def _binary(op: str, left: Any, right: Any) -> Value:
    return _operation(lambda trace, site, handles: trace.builder.binary(site, op, *handles), left, right)


class Value:
    """A symbolic value of a loss: supports ``+ - * / **``, comparisons for :func:`where`, and the functions here."""

    __slots__ = ("trace", "handle")

    def __init__(self, trace: Trace, handle: int) -> None:
        self.trace = trace
        self.handle = handle

    def __add__(self, other: Number) -> Value:
        return _binary("+", self, other)

    def __radd__(self, other: Number) -> Value:
        return _binary("+", other, self)

    def __sub__(self, other: Number) -> Value:
        return _binary("-", self, other)

    def __rsub__(self, other: Number) -> Value:
        return _binary("-", other, self)

    def __mul__(self, other: Number) -> Value:
        return _binary("*", self, other)

    def __rmul__(self, other: Number) -> Value:
        return _binary("*", other, self)

    def __truediv__(self, other: Number) -> Value:
        return _binary("/", self, other)

    def __rtruediv__(self, other: Number) -> Value:
        return _binary("/", other, self)

    def __neg__(self) -> Value:
        return _operation(lambda trace, site, handles: trace.builder.neg(site, *handles), self)

    def __pos__(self) -> Value:
        return self

    def __abs__(self) -> Value:
        return _call("abs", self)

    def __pow__(self, exponent: Number) -> Value:
        # A small whole exponent is a product, which a negative base may have; the language's `pow` takes none.
        if isinstance(exponent, int) and 1 <= exponent <= 8:
            product = self
            for _ in range(exponent - 1):
                product = product * self
            return product
        return _call("pow", self, exponent)

    def __rpow__(self, base: Number) -> Value:
        return _call("pow", base, self)

    def __lt__(self, other: Number) -> Comparison:
        return Comparison("<", self, other)

    def __le__(self, other: Number) -> Comparison:
        return Comparison("<=", self, other)

    def __gt__(self, other: Number) -> Comparison:
        return Comparison(">", self, other)

    def __ge__(self, other: Number) -> Comparison:
        return Comparison(">=", self, other)

    def __eq__(self, other: Any) -> Comparison:  # type: ignore[override]
        return Comparison("==", self, other)

    def __ne__(self, other: Any) -> Comparison:  # type: ignore[override]
        return Comparison("!=", self, other)

    __hash__ = object.__hash__

    def __bool__(self) -> NoReturn:
        self._refuse("a value of a loss has no truth", "compare it, and choose with `cce.where(a > 0.0, x, y)`")

    def __getattr__(self, name: str) -> NoReturn:
        # Protocols of Python and NumPy are asked for by such names, and are not there.
        if name.startswith("_"):
            raise AttributeError(name)
        self._refuse(
            f"a value of a loss has no `{name}`",
            hint(name) or "use the functions of the language: `cce.exp(a)`, not `a.exp()`",
        )

    def __len__(self) -> NoReturn:
        self._refuse("a value of a loss has no parts", "reduce it over the vocabulary: `lse`, `at`, `mean`, `expect`")

    def _no_operator(self, *_: Any) -> NoReturn:
        self._refuse(
            "this operator is not in the language", "the operators are `+ - * / **`, and comparisons in `cce.where`"
        )

    __matmul__ = __rmatmul__ = __mod__ = __rmod__ = __floordiv__ = __rfloordiv__ = __divmod__ = _no_operator
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __invert__ = __round__ = _no_operator

    def __float__(self) -> NoReturn:
        self._refuse(
            "a value of a loss is not a number yet",
            "use the functions of the language: `cce.exp(a)`, not `math.exp(a)`",
        )

    def __iter__(self) -> NoReturn:
        self._refuse("a value of a loss has no parts", "reduce it over the vocabulary: `lse`, `at`, `mean`, `expect`")

    def __getitem__(self, index: Any) -> NoReturn:
        self._refuse("a value of a loss has no parts", "read a value at the target with `cce.at(z, y)`")

    def _refuse(self, message: str, help: str) -> NoReturn:
        site, _ = self.trace.sites.here()
        self.trace.builder.error(site, message, help)
        self.trace.finish()
        raise AssertionError("a trace with a mistake does not finish")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Value:
        # `torch.tanh(z)` is the language's tanh; what the language lacks says what to write instead.
        name = getattr(function, "__name__", str(function))
        values = [*arguments, *(keywords or {}).values()]
        if name == "where" and len(values) == 3:
            return where(*values)
        if hint(name) is not None:
            # What the language lacks is not asked how it was called.
            values = [value for value in values if isinstance(value, Value)]
        return _call(name, *values)


class Comparison:
    """``a < b`` of symbolic values: a condition for :func:`where`."""

    __slots__ = ("cmp", "left", "right")

    def __init__(self, cmp: str, left: Any, right: Any) -> None:
        self.cmp, self.left, self.right = cmp, left, right

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Value:
        # `torch.where(a < b, x, y)` asks its condition.
        return Value.__torch_function__(function, types, arguments, keywords)

    def __bool__(self) -> NoReturn:
        value = next(side for side in (self.left, self.right) if isinstance(side, Value))
        value._refuse(
            "a comparison of values has no truth while a loss is traced",
            f"choose between values with `cce.where(a {self.cmp} b, x, y)`; "
            "of two values, `cce.min(a, b)` and `cce.max(a, b)`",
        )


def where(condition: Comparison, then: Number, otherwise: Number) -> Value:
    """``then`` where the comparison holds, else ``otherwise``. No gradient flows through the comparison."""
    if not isinstance(condition, Comparison):
        raise TypeError(f"expected a comparison such as `a < b`, found {type(condition).__name__}")
    return _operation(
        lambda trace, site, handles: trace.builder.select(site, condition.cmp, *handles),
        condition.left,
        condition.right,
        then,
        otherwise,
    )


def exp(a: Number) -> Value:
    """e to the power a."""
    return _call("exp", a)


def expm1(a: Number) -> Value:
    """exp(a) - 1, exact near 0."""
    return _call("expm1", a)


def ln(a: Number) -> Value:
    """The natural logarithm."""
    return _call("ln", a)


def log1p(a: Number) -> Value:
    """ln(1 + a), exact near 0."""
    return _call("log1p", a)


def tanh(a: Number) -> Value:
    """The hyperbolic tangent."""
    return _call("tanh", a)


def sigmoid(a: Number) -> Value:
    """1 / (1 + exp(-a))."""
    return _call("sigmoid", a)


def log_sigmoid(a: Number) -> Value:
    """ln(sigmoid(a)) without overflow."""
    return _call("log_sigmoid", a)


def softplus(a: Number) -> Value:
    """ln(1 + exp(a)) without overflow."""
    return _call("softplus", a)


def sqrt(a: Number) -> Value:
    """The square root."""
    return _call("sqrt", a)


def abs(a: Number) -> Value:
    """The absolute value; its gradient at 0 is 0."""
    return _call("abs", a)


def pow(a: Number, b: Number) -> Value:
    """a to the power b, any real b; a is not negative."""
    return _call("pow", a, b)


def min(a: Number, b: Number) -> Value:
    """The smaller of two; the first at ties."""
    return _call("min", a, b)


def max(a: Number, *b: Number) -> Value:
    """The larger of two, the first at ties; of one Logit or Col the largest over the vocabulary, without a gradient."""
    return _call("max", a, *b)


def lse(z: Value) -> Value:
    """The logarithm of the sum of exp(z) over the vocabulary."""
    return _call("lse", z)


def at(z: Value, y: Value) -> Value:
    """The value at the target."""
    return _call("at", z, y)


def mean(z: Value) -> Value:
    """The mean over the vocabulary."""
    return _call("mean", z)


def expect(z: Value, f: Value) -> Value:
    """The sum of softmax(z) * f over the vocabulary."""
    return _call("expect", z, f)


def argmax(z: Value) -> Value:
    """The vocabulary entry with the largest z, without a gradient."""
    return _call("argmax", z)


#: Functions of the language, by name.
FUNCTIONS = {name for name, _, _ in _native.functions()}


def hint(name: str) -> str | None:
    """What to write instead of a function that the language does not have; None of one that it has."""
    if name in FUNCTIONS or name == "where":
        return None
    builder = _native.Builder(0, "loss", "")
    builder.call(0, name, [builder.input(0, "z", "Logit")])
    _, mistakes = builder.finish()
    helps = (help for _, _, message, help in mistakes if f"`{name}`" in message)
    help = next(helps, None)
    return None if help is None else _in_python(help)


def _in_python(text: str) -> str:
    """What a message says to write, as Python has it."""
    chosen = re.sub(r"if ([^{}]+) \{ ([^{}]+) \} else \{ ([^{}]+) \}", r"where(\1, \2, \3)", text)
    return re.sub(rf"\b(where|{'|'.join(FUNCTIONS)})\(", r"cce.\1(", chosen)


def _default(function: Callable[..., Any], parameter: inspect.Parameter, kind: str) -> float | None:
    """The default of a parameter."""
    value = parameter.default
    if value is parameter.empty:
        return None
    if kind != "Scalar":
        raise LossError(
            f"`{parameter}` of `{function.__name__}`: expected no default, which only a Scalar may have, and this is a "
            f"{kind}"
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise LossError(f"`{parameter}` of `{function.__name__}`: expected a number as the default of a Scalar")
    return float(value)


def _kinds(function: Callable[..., Any]) -> list[tuple[str, str, float | None]]:
    """Name, kind and default of every parameter."""
    kinds = []
    for at, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise LossError(f"`{parameter}` of `{function.__name__}`: expected an input with a name of its own")
        stated = parameter.annotation
        if isinstance(stated, str):
            # Annotations are text under `from __future__ import annotations`.
            named = {name: kind for kind, name in _KINDS.items()}
            stated = named.get(stated.rpartition(".")[2], stated)
        if stated is parameter.empty:
            kind = ("Logit", "Target")[at] if at < 2 else "Scalar"
        elif stated in _KINDS:
            kind = _KINDS[stated]
        else:
            raise LossError(
                f"`{parameter.name}: {stated}` of `{function.__name__}`: expected one of the kinds "
                "Logit, Target, Row, Col, Scalar"
            )
        kinds.append((parameter.name, kind, _default(function, parameter, kind)))
    return kinds


def _output_name(name: Any) -> str | None:
    """Why a name is none for an output."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        return "expected a name that a field of a named tuple may have"
    return None


def trace(function: Callable[..., Any], reserved: Collection[str] = ()) -> tuple[str, dict[str, float]]:
    """Calls a function with symbolic values and gives the program that it computes, as text, and the defaults of its
    Scalars. Names in ``reserved`` are not for its inputs.

    Raises:
        LossError: with every mistake of the function.
    """
    if not inspect.isfunction(function):
        raise TypeError(f"expected a function for `cce.loss`, found {type(function).__name__}")
    code = function.__code__
    name = "loss" if function.__name__ == "<lambda>" else function.__name__
    tracing = Trace(name, inspect.getdoc(function) or "", code.co_filename, code.co_firstlineno)
    kinds = _kinds(function)
    inputs = {name: tracing.input(tracing.whole, name, kind) for name, kind, _ in kinds}
    for name, kind, _ in kinds:
        if kind in ("Row", "Col", "Scalar") and name in reserved:
            message = f"the input `{name}` has the name of an option of the call"
            tracing.builder.error(tracing.whole, message, f"name it otherwise, `{name}_` say")
    by_name = {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
    result = function(
        *(value for name, value in inputs.items() if name not in by_name),
        **{name: value for name, value in inputs.items() if name in by_name},
    )
    if isinstance(result, Mapping):
        outputs = dict(result)
    elif hasattr(result, "_asdict"):
        outputs = result._asdict()
    else:
        outputs = {"loss": result}
    for name, value in outputs.items():
        unfit = _output_name(name)
        if unfit is not None:
            tracing.builder.error(tracing.whole, f"the output {name!r} cannot have this name", unfit)
        if value is None:
            message = f"`{name}` is None: the function returns no value"
            handle = tracing.builder.error(tracing.whole, message, "return the loss of one token")
        else:
            handle = tracing.operand(tracing.whole, value)
        tracing.builder.output(tracing.whole, str(name), handle)
    return tracing.finish(), {name: default for name, _, default in kinds if default is not None}
