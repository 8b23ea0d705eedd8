"""From a Python function to a program: it is called once, with symbolic values, when a loss is declared.

What it returns is the program. A parameter annotated ``Logit``, ``Target``, ``Row``, ``Col`` or ``Scalar`` is one;
without annotations the first is the Logit, the second the Target, all others Scalars.
"""

from __future__ import annotations

import functools
import inspect
import keyword
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from . import _options
from ._hints import KINDS
from ._trace import Trace
from .language import Kind, LossError


class Input(NamedTuple):
    """An input of a loss, as its parameter declares it."""

    name: str
    kind: str
    #: The number that a Scalar has where a call gives none.
    default: float | None
    by_keyword: bool


def trace(function: Callable[..., Any], reserved: Collection[str] = ()) -> tuple[str, dict[str, float]]:
    """Calls a function with symbolic values and gives the program that it computes, as text, and the defaults of its
    Scalars. Names in ``reserved`` are not for its inputs.

    Raises:
        TypeError: of what is no function.
        LossError: with every mistake of the function.
    """
    _check_function(function)
    code = function.__code__
    name = "loss" if function.__name__ == "<lambda>" else function.__name__
    tracing = Trace(name, inspect.getdoc(function) or "", code.co_filename, code.co_firstlineno)
    inputs = inputs_of(function)
    values = {one.name: tracing.input(tracing.whole, one.name, one.kind) for one in inputs}
    for one in inputs:
        if one.kind in ("Row", "Col", "Scalar") and one.name in reserved:
            message = f"the input `{one.name}` has the name of an option of the call"
            tracing.builder.error(tracing.whole, message, f"name it otherwise, `{one.name}_` say")
    try:
        result = function(
            *(values[one.name] for one in inputs if not one.by_keyword),
            **{one.name: values[one.name] for one in inputs if one.by_keyword},
        )
    except Exception as error:
        if tracing.refused is None or error is tracing.refused:
            raise
    # The first mistake, whatever became of it: libraries that try things catch what they find.
    tracing.require_open()
    outputs = _outputs(result)
    if not outputs:
        help = "return the loss of one token, or a dict of outputs, `{'loss': ..., 'lse': ...}`"
        tracing.builder.error(tracing.whole, f"`{name}` returns no output", help)
    for output, value in outputs.items():
        _declare_output(tracing, output, value)
    return tracing.finish(), {one.name: one.default for one in inputs if one.default is not None}


def inputs_of(function: Callable[..., Any]) -> list[Input]:
    """The inputs that a function's parameters declare.

    Raises:
        LossError: of a parameter that declares none.
    """
    inputs = []
    for at, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise LossError(f"`{parameter}` of `{function.__name__}`: expected an input with a name of its own")
        kind = _kind(function, parameter, at)
        default = _default(function, parameter, kind)
        inputs.append(Input(parameter.name, kind, default, parameter.kind is parameter.KEYWORD_ONLY))
    return inputs


def _check_function(function: Any) -> None:
    if not inspect.isfunction(function):
        advice = "write `@cce.loss` above the `def` of a function of one token's values"
        if inspect.ismethod(function):
            advice = "a loss has no object: write it as a function outside of the class"
        elif isinstance(function, functools.partial):
            advice = "give the function itself; a Scalar may have its number as a default, `cap=30.0`"
        raise TypeError(f"expected a function for `cce.loss`, found {_options.found(function)}: {advice}")
    what = "a generator" if inspect.isgeneratorfunction(function) else "asynchronous"
    if what == "a generator" or inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"`{function.__name__}` is {what}, expected a plain function for `cce.loss`: one that returns the loss of "
            "one token with `return`"
        )


def _kind(function: Callable[..., Any], parameter: inspect.Parameter, at: int) -> str:
    name, stated = parameter.name, parameter.annotation
    if stated is parameter.empty:
        if at == 0 and name in ("self", "cls"):
            raise LossError(
                f"`{name}` of `{function.__name__}`: expected an input, found a method's object, which a loss does not "
                f"have: leave `{name}` out"
            )
        return ("Logit", "Target")[at] if at < 2 else "Scalar"
    if isinstance(stated, Kind):
        return stated.__name__
    if isinstance(stated, str):
        # Annotations are text under `from __future__ import annotations`.
        text = stated
        if text.rpartition(".")[2] in KINDS:
            return text.rpartition(".")[2]
    else:
        text = stated.__qualname__ if isinstance(stated, type) else repr(stated)
    advice = (
        f"`{name}: cce.Row` for one number a token, `cce.Col` for one a vocabulary entry, `cce.Scalar` for one a call"
    )
    if at < 2:
        advice = f"`{name}: cce.{('Logit', 'Target')[at]}`, or no annotation, or another kind if it is one"
    raise LossError(
        f"`{name}: {text}` of `{function.__name__}`: expected one of the kinds Logit, Target, Row, Col, Scalar: write "
        f"{advice}"
    )


def _default(function: Callable[..., Any], parameter: inspect.Parameter, kind: str) -> float | None:
    value = parameter.default
    if value is parameter.empty:
        return None
    place = f"`{parameter.name}` of `{function.__name__}`"
    if isinstance(value, Kind):
        raise LossError(
            f"{place}: expected the kind as an annotation, found it as the default: write "
            f"`{parameter.name}: cce.{value.__name__}`"
        )
    if kind != "Scalar":
        raise LossError(
            f"{place}: expected no default, which only a Scalar may have, and this is a {kind}: leave "
            f"`= {value!r}` out, and give the input in the call"
        )
    number = _options.number(value)
    if number is None or not _options.fits(number):
        expected = "a number" if number is None else "a number that float32 can hold"
        raise LossError(
            f"{place}: expected {expected} as the default of a Scalar, found {_options.found(value)}: write a number, "
            "or leave the default out and give the input in the call"
        )
    return number


def _outputs(result: Any) -> dict[Any, Any]:
    """What a function returned, by its outputs' names."""
    if isinstance(result, Mapping):
        return dict(result)
    if hasattr(type(result), "_asdict"):
        return dict(result._asdict())
    return {"loss": result}


def _declare_output(tracing: Trace, name: Any, value: Any) -> None:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        message = f"the output {name!r} cannot have this name"
        tracing.builder.error(tracing.whole, message, "expected a name that a field of a named tuple may have")
    if value is None:
        message = f"`{name}` is None: the function returns no value"
        handle = tracing.builder.error(tracing.whole, message, "return the loss of one token")
    else:
        handle = tracing.operand(tracing.whole, value)
    tracing.builder.output(tracing.whole, str(name), handle)
