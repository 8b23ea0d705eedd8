"""The interface of ``cut_cross_entropy.transformers``: :func:`cce_patch`, for :func:`cce_torch.transformers.patch`."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...transformers import patch
from . import LinearCrossEntropyImpl, _filter


def cce_patch(
    model_type_or_model: Any,
    impl: str | LinearCrossEntropyImpl = "cce",
    reduction: str = "mean",
    filter_eps: float | str | None = "auto",
    accum_e_fp32: bool = False,
    accum_c_fp32: bool = False,
    filter_e_grad: bool = True,
    filter_c_grad: bool = True,
    train_only: bool = False,
) -> Any:
    """Patches a model, as :func:`cce_torch.transformers.patch` does; the table in
    :mod:`cce_torch.compat.cut_cross_entropy` says what the settings mean.

    Args:
        model_type_or_model: a model. Types of models, by name or configuration, are refused: what is patched here is
            one model, whichever its type.
        train_only: in evaluation the model computes its logits as before.

    Returns:
        The model.
    """
    if not isinstance(model_type_or_model, nn.Module):
        raise TypeError(
            f"expected a model, found {model_type_or_model!r}: make the model first, then call "
            "`cce_torch.transformers.patch(model)`"
        )
    if reduction != "mean":
        raise ValueError(
            f"`reduction` is {reduction!r}, expected 'mean': for another, call `cce_torch.linear_cross_entropy` on the "
            "model's hidden states"
        )
    filter, eps = _filter(impl, filter_eps, filter_e_grad, filter_c_grad)
    return patch(model_type_or_model, filter=filter, filter_eps=eps, eval_logits=train_only)
