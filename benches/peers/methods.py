"""The ways to compute the mean cross entropy of a head, each as a function of hidden states, classifier and targets."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: The mean loss of ``e`` [N, D], ``c`` [V, D], ``targets`` [N], those of -100 ignored.
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    #: As in ``--only``.
    name: str
    #: What it is, in a few words.
    about: str
    #: Makes the loss; for each head anew, so that nothing that was compiled for another shape is in its way.
    make: Callable[[], Loss]
    #: The package that it needs, as PyPI names it, and as Python does.
    package: tuple[str, str] | None = None
    #: Why it is absent although its package may be there; asked first.
    absent: Callable[[], str | None] = lambda: None

    def missing(self) -> str | None:
        """What to do to have it, where it is not installed."""
        reason = self.absent()
        if reason is not None:
            return reason
        if self.package is not None and importlib.util.find_spec(self.package[1]) is None:
            return f"not installed: pip install {self.package[0]}"
        return None


def logits_loss(e: Tensor, c: Tensor, targets: Tensor) -> Tensor:
    """What people write: logits in bf16, their loss in float32."""
    return F.cross_entropy((e @ c.T).float(), targets)


def _eager() -> Loss:
    return logits_loss


def _compiled() -> Loss:
    torch.compiler.reset()
    return torch.compile(logits_loss, dynamic=False)


def _torch_has_it() -> str | None:
    if hasattr(F, "linear_cross_entropy"):
        return None
    return f"torch {torch.__version__} has no torch.nn.functional.linear_cross_entropy: pip install 'torch>=2.13'"


def _torch_chunks() -> str | None:
    if _torch_has_it() is None and hasattr(torch.nn, "LinearCrossEntropyOptions"):
        return None
    return f"torch {torch.__version__} has no torch.nn.LinearCrossEntropyOptions: pip install 'torch>=2.13'"


def _torch_linear() -> Loss:
    return lambda e, c, targets: F.linear_cross_entropy(e, c, targets, ignore_index=-100)


def _torch_chunked() -> Loss:
    options = torch.nn.LinearCrossEntropyOptions()
    return lambda e, c, targets: F.linear_cross_entropy(e, c, targets, ignore_index=-100, options=options)


def _apple(exact: bool) -> Callable[[], Loss]:
    def make() -> Loss:
        from cut_cross_entropy import LinearCrossEntropyImpl, linear_cross_entropy

        # Releases before the one with presets (25.1.1 is what PyPI has) call it a threshold of None.
        named = [impl.name for impl in LinearCrossEntropyImpl]
        if not exact:
            settings: dict[str, object] = {"impl": "cce"}
        elif "CCE_EXACT" in named:
            settings = {"impl": "cce_exact"}
        else:
            settings = {"impl": "cce", "filter_eps": None}
        return lambda e, c, targets: linear_cross_entropy(e, c, targets, **settings)

    return make


def _liger(accumulate: torch.dtype | None) -> Callable[[], Loss]:
    def make() -> Loss:
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

        # A Function takes no names: the options before the one that is set get their defaults.
        options: list[object] = []
        if accumulate is not None:
            named = list(inspect.signature(LigerFusedLinearCrossEntropyFunction.forward).parameters.values())
            names = [parameter.name for parameter in named]
            if "accum_dtype" not in names:
                raise RuntimeError("this liger-kernel has no accum_dtype: pip install --upgrade liger-kernel")
            options = [parameter.default for parameter in named[4 : names.index("accum_dtype")]] + [accumulate]
        return lambda e, c, targets: LigerFusedLinearCrossEntropyFunction.apply(e, c, targets, *options)[0]

    return make


def _cce(**settings: object) -> Callable[[], Loss]:
    def make() -> Loss:
        import cce_torch

        return lambda e, c, targets: cce_torch.linear_cross_entropy(e, c, targets, **settings)

    return make


_CCE = ("cce-torch (docs/pytorch.md says how to build the wheel)", "cce_torch")
_APPLE = ("cut-cross-entropy", "cut_cross_entropy")
_LIGER = ("liger-kernel", "liger_kernel")

#: In the order in which they are measured: what matters most first, so that an interrupted run has it.
METHODS = (
    Method("cce", "cce, sampled 2^-10 (default)", _cce(filter="sampled"), _CCE),
    Method("eager", "torch, eager", _eager),
    Method("compile", "torch.compile", _compiled),
    Method("apple", "Apple cut-cross-entropy", _apple(False), _APPLE),
    Method("liger", "Liger Kernel", _liger(None), _LIGER),
    Method("cce-exact", "cce, exact", _cce(filter="exact"), _CCE),
    Method("apple-exact", "Apple cut-cross-entropy, no filter", _apple(True), _APPLE),
    Method("cce-2^-8", "cce, sampled 2^-8", _cce(filter="sampled", filter_eps=2.0**-8), _CCE),
    Method("liger-fp32", "Liger Kernel, accum_dtype float32", _liger(torch.float32), _LIGER),
    Method("torch-linear", "torch linear_cross_entropy", _torch_linear, absent=_torch_has_it),
    Method("torch-chunked", "torch linear_cross_entropy, chunked", _torch_chunked, absent=_torch_chunks),
)
