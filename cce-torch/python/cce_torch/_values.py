"""Symbolic values of a loss: their operators, comparisons and the choice between two, in Python, torch and NumPy alike.

What is done with a value is recorded in the trace that it belongs to. Every use that the language does not have is
refused where it stands, with what to write instead: Python's own errors would speak of the classes here.
"""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, Union

from torch import Tensor

from . import _options
from ._hints import hint, usage

if TYPE_CHECKING:
    from ._trace import Trace

P = ParamSpec("P")
Number = Union["Value", float, int]


def _values_in(given: Iterable[Any]) -> Iterator[Value]:
    """The values among these, those in comparisons and lists included."""
    for one in given:
        if isinstance(one, Value):
            yield one
        elif isinstance(one, Comparison):
            yield from _values_in((one.left, one.right))
        elif isinstance(one, (list, tuple)):
            yield from _values_in(one)


def _refuse(values: Sequence[Any], message: str, help: str) -> NoReturn:
    """Refuses what was done with these: in the loss that one of them is of, if there is one."""
    value = next(_values_in(values), None)
    if value is None:
        raise TypeError(f"{message}: {help}")
    value._refuse(message, help)


def _operation(make: Callable[[Trace, int, list[int]], int], *values: Any) -> Value:
    value = next(_values_in(values), None)
    if value is None:
        found = ", ".join(map(_options.found, values)) or "nothing"
        raise TypeError(
            f"expected a value of a loss, found {found}: functions of the language work on values, inside of "
            "`@cce.loss` functions; of numbers write Python's `math.exp(1.0)`, of tensors torch's `torch.exp(t)`"
        )
    trace = value.trace
    trace.require_open()
    site, frame = trace.sites.here()
    trace.learn_names(frame)
    handles = [trace.operand(site, value) for value in values]
    return Value(trace, make(trace, site, handles))


def call(name: str, *values: Any) -> Value:
    """A function of the language, by its name."""
    return _operation(lambda trace, site, handles: trace.builder.call(site, name, handles), *values)


def _binary(op: str, left: Any, right: Any) -> Value:
    return _operation(lambda trace, site, handles: trace.builder.binary(site, op, *handles), left, right)


class Value(_options.Symbolic):
    """A symbolic value of a loss: supports ``+ - * / **``, comparisons for :func:`where`, and the functions here."""

    __slots__ = ("trace", "handle")

    def __init__(self, trace: Trace, handle: int) -> None:
        self.trace = trace
        self.handle = handle

    def __repr__(self) -> str:
        return f"<value of the loss `{self.trace.name}`>"

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
        return call("abs", self)

    def __pow__(self, exponent: Number, modulus: Any = None) -> Value:
        if modulus is not None:
            self._no_operator()
        exponent = _number(exponent)
        # A small whole exponent is a product, which a negative base may have; the language's `pow` takes none.
        if isinstance(exponent, numbers.Integral) and not isinstance(exponent, bool) and 1 <= exponent <= 8:
            product = self
            for _ in range(int(exponent) - 1):
                product = product * self
            return product
        return call("pow", self, exponent)

    def __rpow__(self, base: Number, modulus: Any = None) -> Value:
        if modulus is not None:
            self._no_operator()
        return call("pow", base, self)

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

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Refused."""
        self._refuse("a value of a loss is not a function", "a product is written with `*`")

    def _no_operator(self, *_: Any) -> NoReturn:
        self._refuse(
            "this operator is not in the language", "the operators are `+ - * / **`, and comparisons in `cce.where`"
        )

    __matmul__ = __rmatmul__ = __mod__ = __rmod__ = __floordiv__ = __rfloordiv__ = __divmod__ = _no_operator
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __invert__ = __round__ = _no_operator

    def _no_number(self, *_: Any) -> NoReturn:
        self._refuse(
            "a value of a loss is not a number yet",
            "use the functions of the language: `cce.exp(a)`, not `math.exp(a)`",
        )

    __float__ = __int__ = __index__ = __complex__ = __trunc__ = __floor__ = __ceil__ = _no_number

    def __format__(self, how: str) -> str:
        if how:
            self._no_number()
        return repr(self)

    def _no_parts(self, *_: Any) -> NoReturn:
        self._refuse("a value of a loss has no parts", "reduce it over the vocabulary: `lse`, `at`, `mean`, `expect`")

    __len__ = __iter__ = __reversed__ = __contains__ = _no_parts

    def __getitem__(self, index: Any) -> NoReturn:
        self._refuse("a value of a loss has no parts", "read a value at the target with `cce.at(z, y)`")

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        self._refuse("a value of a loss has no parts", "make another value: `cce.where(a < b, x, y)`")

    def __delitem__(self, index: Any) -> NoReturn:
        self._refuse("a value of a loss has no parts", "make another value: `cce.where(a < b, x, y)`")

    def _refuse(self, message: str, help: str) -> NoReturn:
        self.trace.require_open()
        site, _ = self.trace.sites.here()
        self.trace.builder.error(site, message, help)
        self.trace.finish()
        raise AssertionError("a trace with a mistake does not finish")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        return _foreign("torch", getattr(function, "__name__", str(function)), arguments, keywords or {})

    def __array_ufunc__(self, function: Any, method: str, *arguments: Any, **keywords: Any) -> Any:
        name = function.__name__ if method == "__call__" else f"{function.__name__}.{method}"
        return _foreign("np", name, [_number(one) for one in arguments], keywords)

    def __array_function__(self, function: Any, types: Any, arguments: Any, keywords: Any) -> Any:
        return _foreign("np", function.__name__, arguments, keywords)


class Comparison(_options.Symbolic):
    """``a < b`` of symbolic values: a condition for :func:`where`."""

    __slots__ = ("cmp", "left", "right")

    def __init__(self, cmp: str, left: Any, right: Any) -> None:
        self.cmp, self.left, self.right = cmp, left, right

    def __repr__(self) -> str:
        return f"<comparison {self.left!r} {self.cmp} {self.right!r}>"

    # `torch.where(a < b, x, y)` asks its condition.
    __torch_function__ = Value.__torch_function__
    __array_ufunc__ = Value.__array_ufunc__
    __array_function__ = Value.__array_function__

    def __bool__(self) -> NoReturn:
        _refuse(
            [self],
            "a comparison of values has no truth while a loss is traced",
            f"choose between values with `cce.where(a {self.cmp} b, x, y)`; "
            "of two values, `cce.min(a, b)` and `cce.max(a, b)`",
        )

    def _no_logic(self, *_: Any) -> NoReturn:
        _refuse_logic([self])

    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __invert__ = _no_logic
    __lt__ = __le__ = __gt__ = __ge__ = _no_logic
    __eq__ = __ne__ = _no_logic
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        _refuse([self], f"a comparison has no `{name}`", instead_of(self))

    def _no_number(self, *_: Any) -> NoReturn:
        _refuse([self], "a comparison is not a number", instead_of(self))

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _no_number
    __pow__ = __rpow__ = __neg__ = __pos__ = __abs__ = __float__ = __int__ = __index__ = __complex__ = _no_number
    __matmul__ = __rmatmul__ = __mod__ = __rmod__ = __floordiv__ = __rfloordiv__ = __divmod__ = __rdivmod__ = _no_number
    __round__ = __trunc__ = __floor__ = __ceil__ = __len__ = __iter__ = __contains__ = __getitem__ = _no_number


def instead_of(comparison: Comparison) -> str:
    """What to write instead of a comparison where a number is expected."""
    return f"choose numbers with `cce.where(a {comparison.cmp} b, 1.0, 0.0)`"


def _refuse_logic(values: Sequence[Any]) -> NoReturn:
    _refuse(
        values,
        "comparisons are not combined in a loss",
        "nest the choices: `cce.where(a < b, cce.where(c < d, x, y), y)` is x where both hold; instead of `~(a < b)` "
        "write `a >= b`",
    )


def _number(given: Any) -> Any:
    """NumPy hands its numbers over as arrays without dimensions: the number of such a one."""
    other = isinstance(given, (_options.Symbolic, Tensor))
    return given.item() if not other and getattr(given, "shape", None) == () else given


#: The language's operators as torch and NumPy call them.
_OPERATORS = {"add": "+", "sub": "-", "subtract": "-", "mul": "*", "multiply": "*", "div": "/", "divide": "/"}
_OPERATORS |= {"true_divide": "/", "pow": "**", "power": "**"}
_COMPARISONS = {"lt": "<", "less": "<", "le": "<=", "less_equal": "<=", "gt": ">", "greater": ">"}
_COMPARISONS |= {"ge": ">=", "greater_equal": ">=", "eq": "==", "equal": "==", "ne": "!=", "not_equal": "!="}
#: Functions of truth, which the language does not have.
_LOGIC = {f"{kind}_{name}" for kind in ("logical", "bitwise") for name in ("and", "or", "xor", "not")}
_LOGIC |= {"invert", "__and__", "__or__", "__xor__"}


def _foreign(library: str, name: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> Value | Comparison:
    """A function of another library: where the language has it, that; else what to write instead is said."""
    values = [*arguments, *named.values()]
    if name in _LOGIC:
        _refuse_logic(values)
    symbol = _OPERATORS.get(name) or _COMPARISONS.get(name)
    if symbol is not None:
        if named or len(values) != 2:
            found = f"`{next(iter(named))}`" if named else f"{len(values)} arguments"
            message = f"`{library}.{name}` is given {found} in a loss, expected two values alone"
            _refuse(values, message, f"write `a {symbol} b`")
        left, right = values
        if name in _COMPARISONS:
            return Comparison(symbol, left, right)
        if symbol != "**":
            return _binary(symbol, left, right)
        return left.__pow__(right) if isinstance(left, Value) else call("pow", left, right)
    if name != "where" and hint(name) is not None:
        # What the language lacks is not asked how it was called.
        return call(name, *_values_in(values))
    if named:
        first = next(iter(named))
        message = f"`{library}.{name}` is given `{first}` in a loss, expected its values alone"
        _refuse(values, message, usage(name, first))
    return where(*values) if name == "where" else call(name, *values)


def function(define: Callable[P, Value]) -> Callable[P, Value]:
    """A function of the language: one that is called otherwise than it is defined is refused where that stands."""
    name, signature = define.__name__, inspect.signature(define)

    @functools.wraps(define)
    def checked(*arguments: P.args, **named: P.kwargs) -> Value:
        try:
            signature.bind(*arguments, **named)
        except TypeError:
            values = [*arguments, *named.values()]
            unknown = next((given for given in named if given not in signature.parameters), None)
            if unknown is None and name != "where":
                # The program's builder says how many it takes.
                return call(name, *values)
            found = f"`{unknown}`" if unknown is not None else f"{len(values)} arguments"
            message = f"`{name}` is given {found}, expected {', '.join(signature.parameters)}"
            _refuse(values, message, usage(name, unknown or ""))
        return define(*arguments, **named)

    return checked


@function
def where(condition: Comparison, then: Number, otherwise: Number) -> Value:
    """``then`` where the comparison holds, else ``otherwise``. No gradient flows through the comparison."""
    if not isinstance(condition, Comparison):
        found = "a value" if isinstance(condition, Value) else _options.found(condition)
        _refuse(
            (condition, then, otherwise),
            f"the condition of `where` is {found}, expected a comparison of values such as `a < b`",
            "write `cce.where(a > 0.0, x, y)`; what is known when the loss is declared is chosen by Python's `if`",
        )
    return _operation(
        lambda trace, site, handles: trace.builder.select(site, condition.cmp, *handles),
        condition.left,
        condition.right,
        then,
        otherwise,
    )
