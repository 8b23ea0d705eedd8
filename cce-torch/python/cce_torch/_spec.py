"""What a call computes, apart from its tensors: a constant of a compiled graph.

A :class:`Spec` travels through the operators as text, so that a graph that was compiled and cached in one process
means the same in another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import cache

from . import _native


@cache
def describe(program: str) -> _native.Description:
    """Inputs and outputs of a program's text."""
    return _native.describe(program)


@dataclass(frozen=True)
class Spec:
    """Settings of a call. Hashable, and the same as text: :meth:`text`, :func:`parse`."""

    program: str
    #: The type in which E and C are multiplied: ``f32``, ``f16``, ``bf16``.
    compute: str
    #: ``none``, ``sum``, ``mean``, ``mean_by:NAME``.
    reduction: str
    ignore_index: int | None
    #: As the native side reads it; None: the default of program and device.
    filter: str | None
    #: Names of the inputs that are tensors, in the order in which they are given.
    tensors: tuple[str, ...]
    #: Names of the Scalar inputs that are numbers of the host.
    numbers: tuple[str, ...]
    #: Whether gradients of E, of C, and of which inputs, are wanted.
    gradient_e: bool
    gradient_c: bool
    gradient_inputs: tuple[str, ...]
    #: Outputs that are wanted token by token. The output ``loss`` is reduced if it is not among them.
    rows: tuple[str, ...]
    reduced: bool
    #: The type of the buffer that C's gradient is added to, where it is not returned.
    main_grad: str | None = None
    #: Whether targets out of range are refused, for which a GPU is waited for.
    check_targets: bool = False
    #: The state of the tuning database that plans are chosen from.
    tuning: str = "none"
    #: The version of the operators' arguments: a graph that torch cached under other ones is not taken for this one.
    signature: int = 3

    def text(self) -> str:
        """As JSON."""
        return _text(self)

    @property
    def wants_gradients(self) -> bool:
        return self.gradient_e or self.gradient_c or bool(self.gradient_inputs)


@cache
def _text(spec: Spec) -> str:
    return json.dumps({part.name: getattr(spec, part.name) for part in fields(spec)})


@cache
def parse(text: str) -> Spec:
    """The spec of a text."""
    values = json.loads(text)
    for name in ("tensors", "numbers", "gradient_inputs", "rows"):
        values[name] = tuple(values[name])
    return Spec(**values)
