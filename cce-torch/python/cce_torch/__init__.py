"""The loss of a language model's head for PyTorch, without ever writing the logits to memory.

``linear_cross_entropy(e, c, targets)`` is ``F.cross_entropy(e @ c.T, targets)``, with its gradients, in a fraction of
the memory. ``@loss`` makes a loss of your own of a small function. See docs/pytorch.md.
"""

import difflib
from typing import Any

from . import _hints, compat
from ._native import __VERSION__ as __version__
from .diagnosis import Diagnosis, Finding, doctor
from .functional import linear_cross_entropy, token_logprobs
from .language import (
    Col,
    Logit,
    LossError,
    Row,
    Scalar,
    Target,
    abs,
    argmax,
    at,
    exp,
    expect,
    expm1,
    ln,
    log1p,
    log_sigmoid,
    lse,
    max,
    mean,
    min,
    pow,
    sigmoid,
    softplus,
    sqrt,
    tanh,
    where,
)
from .losses import Loss, loss
from .modules import LinearCrossEntropy
from .tuning import Candidate, TuneReport, tune

__all__ = [
    "Candidate",
    "Col",
    "Diagnosis",
    "Finding",
    "LinearCrossEntropy",
    "Logit",
    "Loss",
    "LossError",
    "Row",
    "Scalar",
    "Target",
    "TuneReport",
    "__version__",
    "abs",
    "argmax",
    "at",
    "compat",
    "doctor",
    "exp",
    "expect",
    "expm1",
    "linear_cross_entropy",
    "ln",
    "log1p",
    "log_sigmoid",
    "loss",
    "lse",
    "max",
    "mean",
    "min",
    "pow",
    "sigmoid",
    "softplus",
    "sqrt",
    "tanh",
    "token_logprobs",
    "tune",
    "where",
]


#: What is in a module of its own, which has to be imported.
_ELSEWHERE = {name: "cce_torch.transformers" for name in ("patch", "unpatch")}


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    # Kinds have capitals.
    close = [own for own in __all__ if own.lower() == name.lower()] or difflib.get_close_matches(name, __all__, 1, 0.8)
    if module := _ELSEWHERE.get(name):
        advice = f"it is `{module}.{name}`, after `import {module}`"
    else:
        advice = f"did you mean `cce.{close[0]}`?" if close else f"for a loss, {_hints.hint(name)}"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: {advice}")
