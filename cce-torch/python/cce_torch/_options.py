"""Options of calls: what each may be, and what is said of one that is something else.

Numbers are those of Python or NumPy. A float where a whole number belongs is refused, not cut; so are a bool where it
would count as 0 or 1, and a complex number, whose imaginary part would be lost.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor

REDUCTIONS = ("mean", "sum", "none")
FILTERS = ("exact", "sampled")
#: The smallest step of the sampled filter.
SMALLEST_EPS = 2.0**-64
#: The largest float32, and the smallest that is not rounded to fewer digits: Scalars are float32 where they are used.
LARGEST = float(torch.finfo(torch.float32).max)
SMALLEST = float(torch.finfo(torch.float32).tiny)
#: Letters of a value that a message repeats.
_SHOWN = 100
#: Bits of an int that Python writes in decimal, whatever its limit of digits is set to.
_DECIMAL_BITS = 2048
#: Kinds of NumPy's types that are real numbers; other libraries' floats are V there.
_REAL_KINDS = "iufV"


class Symbolic:
    """What stands for a number while a loss is traced: none yet, whatever methods of numbers it has."""

    __slots__ = ()


def shown(value: Any) -> str:
    """A value as a message repeats it, cut where it is long."""
    text = hex(value) if isinstance(value, int) and value.bit_length() > _DECIMAL_BITS else repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def found(value: Any) -> str:
    """A value and its type, for messages."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"{shown(value)} ({type(value).__name__})"


def module_advice(value: Any) -> str:
    """What to do where a tensor is expected, and this is a module."""
    return ": of a module give its parameter, such as `head.weight`" if isinstance(value, torch.nn.Module) else ""


def is_truth(value: Any) -> bool:
    """Whether it is True or False, Python's or NumPy's."""
    return isinstance(value, bool) or (not isinstance(value, (Symbolic, Tensor)) and _kind(value) == "b")


def _kind(value: Any) -> str | None:
    """NumPy's letter for the type of one of its numbers or arrays; None of what has none."""
    return getattr(getattr(value, "dtype", None), "kind", None)


def _index(value: Any) -> int | None:
    """The whole number that it is; None of anything else."""
    if isinstance(value, (bool, Tensor, Symbolic)):
        return None
    if isinstance(value, (int, torch.SymInt)):
        return value  # type: ignore[return-value]
    if is_truth(value):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _is_real_elsewhere(value: Any) -> bool:
    """Whether it is a real number of another library."""
    if not hasattr(type(value), "__float__"):
        return False
    # Arrays of NumPy's have what numbers have, whatever their shape; its numbers have no dimensions.
    return not getattr(value, "ndim", None) and (_kind(value) or "f") in _REAL_KINDS


def number(value: Any) -> float | None:
    """The real number that it is, infinite where no float is so large; None of anything else: of bools, tensors, texts,
    complex numbers, arrays with dimensions."""
    if isinstance(value, (bool, Tensor, str, bytes, Symbolic)):
        return None
    if not isinstance(value, (int, float, torch.SymInt, torch.SymFloat)) and not _is_real_elsewhere(value):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):
        return None


def fits(value: float) -> bool:
    """Whether float32 can hold a number of about this size."""
    return -LARGEST <= value <= LARGEST


def whole(name: str, value: Any, least: int, most: int, besides: str = "") -> int:
    """A whole number in a range."""
    index = _index(value)
    if index is None:
        raise TypeError(f"`{name}` is {found(value)}, expected a whole number{besides}")
    if not least <= index <= most:
        raise ValueError(f"`{name}` is {shown(value)}, expected a whole number from {least} to {most}{besides}")
    return index


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` is {found(value)}, expected True or False")
    return value


def shift(value: Any) -> int:
    """How far targets are shifted; True is 1. Its upper bound, the sequence's length, is checked with the shapes."""
    if isinstance(value, bool):
        return int(value)
    return whole("shift", value, 0, 2**31 - 1, " (True is 1)")


def ignore_index(value: Any) -> int:
    """The target of tokens that are ignored."""
    return whole("ignore_index", value, -(2**63), 2**63 - 1)


def reduction(value: Any) -> str:
    """One of the reductions."""
    if not isinstance(value, str) or value not in REDUCTIONS:
        kind = TypeError if not isinstance(value, str) else ValueError
        raise kind(f"`reduction` is {value!r}, expected 'mean', 'sum' or 'none'")
    return value


def filter_text(name: Any, eps: Any, max_entries: Any) -> str | None:
    """The filter as the native side reads it; None is its default."""
    if name is not None and (not isinstance(name, str) or name not in FILTERS):
        kind = ValueError if isinstance(name, str) else TypeError
        raise kind(f"`filter` is {name!r}, expected None, 'exact' or 'sampled'")
    if eps is None and max_entries is None:
        return name
    if name == "exact":
        raise ValueError(
            "`filter_eps` and `max_entries` are the sampled filter's, and `filter` is 'exact': leave them out"
        )
    step = 2.0**-10 if eps is None else number(eps)
    if step is None:
        raise TypeError(f"`filter_eps` is {found(eps)}, expected None or a number")
    if not SMALLEST_EPS <= step <= 1.0:
        raise ValueError(f"`filter_eps` is {shown(eps)}, expected a number from 2**-64 to 1, such as 2**-10")
    entries = 384 if max_entries is None else whole("max_entries", max_entries, 2, 2**32 - 1)
    return f"sampled:{step!r},{entries}"


def scalar(name: str, value: Any, besides: str = "") -> float:
    """A Scalar input that is no tensor."""
    # Most are.
    if type(value) is float and -LARGEST <= value <= LARGEST:
        return value
    real = number(value)
    if real is None:
        raise TypeError(f"`{name}` is {found(value)}, expected {besides}a number or a tensor of one element")
    if not fits(real):
        raise ValueError(f"`{name}` is {found(value)}, expected {besides}a number that float32 can hold")
    return real


def one_element(name: str, value: Tensor) -> None:
    """A Scalar input that is a tensor."""
    if value.numel() != 1:
        raise ValueError(f"the Scalar input `{name}` has shape {list(value.shape)}, expected one element")


def positive(name: str, value: Any) -> None:
    """Nothing, a number above 0, or a tensor of one element."""
    if value is None or isinstance(value, Tensor):
        return
    if not SMALLEST <= scalar(name, value, "None, "):
        raise ValueError(f"`{name}` is {shown(value)}, expected None or a number above 0, in float32")


def seconds(name: str, value: Any) -> float | None:
    """Nothing, or a time in seconds."""
    if value is None:
        return None
    time = number(value)
    if time is None:
        raise TypeError(f"`{name}` is {found(value)}, expected None or a number of seconds")
    if not 0.0 < time < math.inf:
        raise ValueError(f"`{name}` is {shown(value)}, expected None or a finite number above 0")
    return time


def vector(name: str, value: Any) -> None:
    """Nothing, or a tensor of one number a vocabulary entry."""
    if value is not None and not isinstance(value, Tensor):
        raise TypeError(f"`{name}` is {found(value)}, expected None or a tensor [V]")


def seed(value: Any, device: torch.device) -> Tensor | None:
    """The seed on the device; None where one is to be drawn. A number counts modulo 2^64."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        if value.dtype != torch.int64 or value.numel() != 1 or value.device != device:
            raise ValueError(
                f"`seed` is {value.dtype} {list(value.shape)} on {value.device}, expected an int, or one torch.int64 "
                f"on {device}"
            )
        return value.reshape(1)
    index = _index(value)
    if index is None:
        raise TypeError(f"`seed` is {found(value)}, expected None, an int, or one torch.int64 on {device}")
    # A fill, not a copy from the host: nothing waits.
    return torch.full((1,), (index + 2**63) % 2**64 - 2**63, dtype=torch.int64, device=device)
