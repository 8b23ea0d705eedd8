"""The interface of Apple's ``cut_cross_entropy`` package: change the import, and nothing else.

::

    from cce_torch.compat.cut_cross_entropy import linear_cross_entropy

That package skips blocks of the gradient whose probabilities are all below a threshold, which is biased; here the
filter samples, which is not. What its settings mean here:

======================================================================  ==========================================
``impl="cce"``, ``"cce_kahan"``, ``filter_eps="auto"``                  the default filter: sampled where possible
``filter_eps=`` a number, ``"high"``                                    the sampled filter with that step; 2^-13
``impl="cce_exact"``, ``"cce_kahan_full_c"``, ``"cce_kahan_full_e"``,   exact
``"cce_kahan_full_c_full_e"``, ``"torch_compile"``
``filter_eps=None``, ``filter_e_grad=False``, ``filter_c_grad=False``   exact: both gradients are thinned, or neither
``accum_e_fp32``, ``accum_c_fp32``, ``use_kahan``                       nothing: sums are fp32, rounded once
``vocab_parallel_options``, ``VocabParallelOptions``                    refused: the head has to be whole
``cut_cross_entropy.transformers.cce_patch(model)``                     :func:`cce_torch.transformers.patch`
======================================================================  ==========================================
"""

from __future__ import annotations

import enum
from typing import Any, NoReturn

from torch import Tensor, nn

from ... import _options, functional
from ..._call import FilterName, Reduction

IGNORE_INDEX = -100


class LinearCrossEntropyImpl(enum.IntEnum):
    """The implementations that the package names."""

    CCE = enum.auto()
    TORCH_COMPILE = enum.auto()
    CCE_KAHAN = enum.auto()
    CCE_KAHAN_FULL_C = enum.auto()
    CCE_KAHAN_FULL_E = enum.auto()
    CCE_KAHAN_FULL_C_FULL_E = enum.auto()
    CCE_EXACT = enum.auto()


_WHOLE = (
    "a head that is sharded over the vocabulary is not supported, because each rank would need the normalisers of all "
    "others between the passes: gather the head's weight on each rank, and give each its own tokens; expected "
    "`vocab_parallel_options=None`"
)


class VocabParallelOptions:
    """There under that package's name, to say that it is not supported."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError(_WHOLE)

    @classmethod
    def from_vocab(cls, *_: Any, **__: Any) -> NoReturn:
        """Refused."""
        raise NotImplementedError(_WHOLE)


_FILTERED = ("cce", "cce_kahan")
_HIGH = 2.0**-13


def _filter(
    impl: str | LinearCrossEntropyImpl, filter_eps: float | str | None, filter_e_grad: bool, filter_c_grad: bool
) -> tuple[FilterName | None, float | None]:
    name = impl.name.lower() if isinstance(impl, LinearCrossEntropyImpl) else impl
    for option, value in (("filter_e_grad", filter_e_grad), ("filter_c_grad", filter_c_grad)):
        _options.flag(option, value)
    known = [member.name.lower() for member in LinearCrossEntropyImpl]
    if name not in known:
        raise ValueError(f"`impl` is {name!r}, expected one of {', '.join(known)}")
    named = filter_eps is None or (isinstance(filter_eps, str) and filter_eps in ("auto", "high"))
    if not named and _options.number(filter_eps) is None:
        raise ValueError(f"`filter_eps` is {_options.found(filter_eps)}, expected a number, None, 'auto' or 'high'")
    if name not in _FILTERED or filter_eps is None or not filter_e_grad or not filter_c_grad:
        return "exact", None
    if filter_eps == "auto":
        return None, None
    return "sampled", _HIGH if filter_eps == "high" else filter_eps  # type: ignore[return-value]


def linear_cross_entropy(
    e: Tensor,
    c: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    softcap: float | None = None,
    reduction: Reduction = "mean",
    shift: bool | int = 0,
    return_lse: bool = False,
    filter_eps: float | str | None = "auto",
    accum_e_fp32: bool = False,
    accum_c_fp32: bool = False,
    filter_e_grad: bool = True,
    filter_c_grad: bool = True,
    impl: str | LinearCrossEntropyImpl = LinearCrossEntropyImpl.CCE,
    vocab_parallel_options: Any = None,
    use_kahan: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """:func:`cce_torch.linear_cross_entropy` under that package's names; see the table above."""
    if vocab_parallel_options is not None:
        raise NotImplementedError(_WHOLE)
    filter, eps = _filter(impl, filter_eps, filter_e_grad, filter_c_grad)
    return functional.linear_cross_entropy(  # type: ignore[call-overload, misc, no-any-return]
        e, c, targets, bias, ignore_index, softcap, reduction, shift, return_lse, filter=filter, filter_eps=eps
    )


class LinearCrossEntropy(nn.Module):
    """:func:`linear_cross_entropy` with its options fixed."""

    def __init__(
        self,
        ignore_index: int = IGNORE_INDEX,
        softcap: float | None = None,
        reduction: Reduction = "mean",
        shift: bool | int = 0,
        filter_eps: float | str | None = "auto",
        accum_e_fp32: bool = False,
        accum_c_fp32: bool = False,
        filter_e_grad: bool = True,
        filter_c_grad: bool = True,
        impl: str | LinearCrossEntropyImpl = LinearCrossEntropyImpl.CCE,
        return_lse: bool = False,
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.softcap = softcap
        self.reduction: Reduction = reduction
        self.shift = shift
        self.filter_eps = filter_eps
        self.accum_e_fp32 = accum_e_fp32
        self.accum_c_fp32 = accum_c_fp32
        self.filter_e_grad = filter_e_grad
        self.filter_c_grad = filter_c_grad
        self.impl = impl
        self.return_lse = return_lse

    def forward(self, e: Tensor, c: Tensor, targets: Tensor, bias: Tensor | None = None) -> Any:
        """The loss, and with ``return_lse`` the lse."""
        return linear_cross_entropy(
            e,
            c,
            targets,
            bias,
            ignore_index=self.ignore_index,
            softcap=self.softcap,
            reduction=self.reduction,
            shift=self.shift,
            return_lse=self.return_lse,
            filter_eps=self.filter_eps,
            accum_e_fp32=self.accum_e_fp32,
            accum_c_fp32=self.accum_c_fp32,
            filter_e_grad=self.filter_e_grad,
            filter_c_grad=self.filter_c_grad,
            impl=self.impl,
        )
