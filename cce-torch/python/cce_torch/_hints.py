"""What messages about a loss say to write: the native side's, which are Rust's, as Python has it."""

from __future__ import annotations

import re

from . import _native

#: The kinds of inputs.
KINDS = ("Logit", "Target", "Row", "Col", "Scalar")
#: How the functions are called.
USAGES = {name: usage for name, usage, _ in _native.functions()} | {"where": "where(a < b, x, y)"}
#: What functions of tensors are told to reduce over.
_DIMENSIONS = ("dim", "axis", "keepdim", "keepdims")


def usage(name: str, unknown: str = "") -> str:
    """How a function is to be called, for one that was given the argument ``unknown``."""
    over = "; a loss reduces over the vocabulary, which is not stated" if unknown in _DIMENSIONS else ""
    return f"write `cce.{USAGES[name]}`{over}"


def hint(name: str) -> str | None:
    """What to write instead of a function that the language does not have; None of one that it has."""
    if name in USAGES:
        return None
    builder = _native.Builder(0, "loss", "")
    builder.call(0, name, [builder.input(0, "z", "Logit")])
    _, mistakes = builder.finish()
    helps = (help for _, _, message, help in mistakes if f"`{name}`" in message)
    help = next(helps, None)
    return None if help is None else in_python(help)


def in_python(text: str) -> str:
    """What a message says to write, as Python has it."""
    chosen = re.sub(r"if ([^{}]+) \{ ([^{}]+) \} else \{ ([^{}]+) \}", r"where(\1, \2, \3)", text)
    called = re.sub(rf"(?<![\w.])({'|'.join(USAGES)})\(", r"cce.\1(", chosen)
    return re.sub(rf": ({'|'.join(KINDS)})`", r": cce.\1`", called)
