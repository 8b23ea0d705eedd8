"""The trace of a loss: what its function does with symbolic values, as a program, with mistakes and their places."""

from __future__ import annotations

import numbers
from types import FrameType
from typing import Any

from . import _native, _options
from ._hints import in_python
from ._sites import Sites
from ._values import Comparison, Value, instead_of
from .language import Kind, LossError


class Trace:
    """One tracing of a function."""

    def __init__(self, name: str, doc: str, filename: str, line: int) -> None:
        self.sites = Sites()
        self.whole = self.sites.of(filename, line)
        self.name = name
        self.builder = _native.Builder(self.whole, name, doc)
        self.bound: dict[str, Value] = {}
        self.finished = False
        #: What was said of a loss that is not valid.
        self.refused: LossError | None = None

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
        number = _options.number(value)
        if number is not None:
            return self.builder.constant(site, number)
        message = f"{_named(value)} is used here, expected a value of the loss or a number"
        return self.builder.error(site, message, _instead(value))

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
                lines.append(f"  help: {in_python(help)}")
            lines.append(self.sites.show(site))
            parts.append("\n".join(lines))
        self.refused = LossError(f"`{self.name}` is not a valid loss:\n" + "\n\n".join(parts))
        raise self.refused

    def require_open(self) -> None:
        """Raises LossError if the tracing is over: values mean nothing any more. If it ended by a mistake, that is said
        again, for whoever called may have caught it."""
        if self.refused is not None:
            raise self.refused.with_traceback(None) from None
        if self.finished:
            raise LossError(
                f"a value of the loss `{self.name}` is used outside of it: use each value only in its own loss"
            )


def _named(value: Any) -> str:
    """What a message calls something that is no value."""
    if isinstance(value, Comparison):
        return "a comparison"
    return f"the kind `{value.__name__}`" if isinstance(value, Kind) else f"a {type(value).__name__}"


def _instead(value: Any) -> str:
    """What to write instead of something that is no value."""
    if isinstance(value, Comparison):
        return instead_of(value)
    if isinstance(value, Kind):
        return f"a kind annotates an input, `weight: cce.{value.__name__}`: use the input"
    if _options.is_truth(value):
        return "write 1.0 or 0.0"
    if isinstance(value, numbers.Complex):
        return "a loss computes with real numbers"
    if isinstance(value, (tuple, list)):
        return "use its parts one by one; several outputs are returned as a dict, `{'loss': ..., 'lse': ...}`"
    return "a value that changes from call to call is an input of the loss: add a parameter for it"
