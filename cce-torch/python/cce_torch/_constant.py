"""Functions of constants: computed once, and constants of a graph that is being compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def constant(function: Callable[P, R]) -> Callable[P, R]:
    """The function with its results kept; torch.compile takes them as they are instead of tracing into it."""
    cached = lru_cache(maxsize=None)(function)

    def call(*arguments: P.args, **named: P.kwargs) -> R:
        return cached(*arguments, **named)  # type: ignore[arg-type]

    call.__doc__ = function.__doc__
    return torch.compiler.assume_constant_result(call)  # type: ignore[no-any-return]
