"""Hugging Face transformers: :func:`patch` makes a causal language model compute its loss without its logits.

The model's own forward runs as it is. While labels are given, its ``lm_head`` hands on a small probe instead of
logits, and its loss is computed from what the head was given. The probe, which passes through whatever the model does
to its logits, shows on the first call that softcap and scale are those of the configuration.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from typing import Any

import torch
from torch import Tensor, nn

from . import _options
from ._call import FilterName
from .functional import linear_cross_entropy

#: Logits that the model's own treatment of them is tried on.
_PROBE = (-90.0, -10.0, -1.0, 0.0, 0.5, 2.0, 30.0, 80.0)


@dataclasses.dataclass
class _State:
    """What a patched model carries."""

    softcap: float | None
    scale: float | None
    filter: FilterName | None
    filter_eps: float | None
    max_entries: int | None
    eval_logits: bool
    active: bool = False
    checked: bool = False
    hidden: Tensor | None = None
    loss: Tensor | None = None
    #: What the model and its head had of their own before: forwards that others installed, a loss function.
    model_had: dict[str, Any] = dataclasses.field(default_factory=dict)
    head_had: dict[str, Any] = dataclasses.field(default_factory=dict)

    def expected(self, probe: Tensor) -> Tensor:
        z = probe if self.scale is None else self.scale * probe
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)


def patch(
    model: Any,
    *,
    filter: FilterName | None = None,
    filter_eps: float | None = None,
    max_entries: int | None = None,
    eval_logits: bool = False,
) -> Any:
    """Makes ``model(input_ids, labels=labels)`` compute the same loss without its logits.

    For any causal language model with an ``lm_head`` (tied to the embedding or not) whose loss is that of
    ``transformers``: shifted labels, -100 ignored, ``num_items_in_batch`` honoured. Without labels, as in generation,
    the model is as it was. With them ``logits`` is None in its output.

    Args:
        model: the model, which is changed in place; :func:`unpatch` undoes it.
        eval_logits: in evaluation (``model.eval()``) compute logits and loss as the model did, for metrics that need
            logits.

    The others are those of :func:`cce_torch.linear_cross_entropy`.

    Returns:
        The model.

    Raises:
        TypeError, ValueError: options that do not fit, a model that has no ``lm_head`` that is a linear layer, or is
            patched already. In its first call, if the model does something else to its logits than the configuration's
            softcap and scale.
    """
    _options.filter_text(filter, filter_eps, max_entries)
    _options.flag("eval_logits", eval_logits)
    head = getattr(model, "lm_head", None)
    if not isinstance(head, nn.Linear):
        found = "no `lm_head`" if head is None else f"a {type(head).__name__} as `lm_head`"
        raise ValueError(
            f"{type(model).__name__} has {found}, expected a causal language model with a linear layer under that name"
        )
    if type(head).forward is not nn.Linear.forward:
        raise ValueError(
            f"the `lm_head` is a {type(head).__name__} with a forward of its own, expected that of torch.nn.Linear: "
            "its weight alone does not say what its logits are"
        )
    if hasattr(model, "_cce_torch"):
        raise ValueError("the model is patched already: call `unpatch` first to change its options")
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    divisor = getattr(config, "logits_scaling", None)
    scale = getattr(config, "logit_scale", None) if divisor is None else 1.0 / divisor
    softcap = getattr(config, "final_logit_softcapping", None)
    model._cce_torch = _State(softcap, scale, filter, filter_eps, max_entries, eval_logits)
    model._cce_torch.model_had = _own(model, "forward", "_loss_function")
    model._cce_torch.head_had = _own(head, "forward")
    model.forward = _Forward(model, model.forward)
    model.loss_function = types.MethodType(_loss_function, model)
    head._cce_torch = model._cce_torch
    head.forward = types.MethodType(_head, head)  # type: ignore[method-assign]
    return model


def unpatch(model: Any) -> Any:
    """Undoes :func:`patch`."""
    if hasattr(model, "_cce_torch"):
        state: _State = model._cce_torch
        del model._cce_torch, model.forward, model._loss_function
        del model.lm_head._cce_torch, model.lm_head.forward
        vars(model).update(state.model_had)
        vars(model.lm_head).update(state.head_had)
    return model


def _own(module: nn.Module, *names: str) -> dict[str, Any]:
    """The attributes of these names that the instance has, apart from its class."""
    return {name: vars(module)[name] for name in names if name in vars(module)}


class _Forward:
    """The forward of a patched model, with the signature of the model's own: trainers look at it."""

    def __init__(self, model: Any, original: Any) -> None:
        self.model = model
        self.original = original
        self.__signature__ = inspect.signature(original)
        self.__name__ = "forward"
        self.__doc__ = original.__doc__

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        model, state = self.model, self.model._cce_torch
        labels = named.get("labels")
        if labels is None and arguments:
            labels = self.__signature__.bind_partial(*arguments).arguments.get("labels")
        if labels is None or (state.eval_logits and not model.training):
            return self.as_it_was(*arguments, **named)
        state.active, state.hidden, state.loss = True, None, None
        try:
            output = self.original(*arguments, **named)
            if state.loss is None:
                raise ValueError(
                    f"{type(model).__name__} computes its loss in a way of its own, expected its `loss_function` to be "
                    "called: use cce_torch.linear_cross_entropy in its forward instead"
                )
        finally:
            state.active, state.hidden, state.loss = False, None, None
        if isinstance(output, tuple):
            return (output[0], None, *output[2:])
        return dataclasses.replace(output, logits=None)

    def as_it_was(self, *arguments: Any, **named: Any) -> Any:
        """The model's own forward under its own loss function."""
        patched = self.model._loss_function
        del self.model._loss_function
        vars(self.model).update(_own_loss(self.model._cce_torch))
        try:
            return self.original(*arguments, **named)
        finally:
            self.model._loss_function = patched


def _own_loss(state: _State) -> dict[str, Any]:
    return {name: value for name, value in state.model_had.items() if name == "_loss_function"}


def _head(self: nn.Linear, hidden: Tensor) -> Tensor:
    state: _State = self._cce_torch  # type: ignore[assignment]
    if not state.active:
        own = state.head_had.get("forward")
        return nn.Linear.forward(self, hidden) if own is None else own(hidden)
    state.hidden = hidden
    if state.checked:
        # Nobody looks at them any more, and a copy from the host would wait for the GPU.
        return hidden.new_zeros(1, 1, len(_PROBE))
    return torch.tensor(_PROBE, dtype=hidden.dtype, device=hidden.device).view(1, 1, -1)


def _loss_function(
    self: Any,
    logits: Tensor,
    labels: Tensor,
    vocab_size: int | None = None,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = -100,
    shift_labels: Tensor | None = None,
    **_: Any,
) -> Tensor:
    state: _State = self._cce_torch
    hidden = state.hidden
    if hidden is None:
        raise ValueError("the model computed a loss without its `lm_head`, expected it to be called once before")
    _check_probe(self, state, logits)
    head = self.lm_head
    # Labels that come shifted are paired with the states as they stand.
    targets = labels if shift_labels is None else shift_labels
    targets = targets.to(hidden.device).view(hidden.shape[:-1])
    loss = linear_cross_entropy(
        hidden,
        head.weight,
        targets,
        head.bias,
        ignore_index=ignore_index,
        softcap=state.softcap,
        reduction="mean" if num_items_in_batch is None else "sum",
        shift=1 if shift_labels is None else 0,
        filter=state.filter,
        filter_eps=state.filter_eps,
        max_entries=state.max_entries,
        logit_scale=state.scale,
    )
    if num_items_in_batch is not None:
        items = num_items_in_batch
        loss = loss / (items.to(loss.device) if isinstance(items, Tensor) else items)
    state.loss = loss
    return loss


def _check_probe(model: Any, state: _State, found: Tensor) -> None:
    """Once: what the model did to the probe is what softcap and scale do."""
    if state.checked:
        return
    probe = torch.tensor(_PROBE, dtype=found.dtype, device=found.device)
    expected = state.expected(probe)
    tolerance = 1e-4 if found.dtype == torch.float32 else 3e-2
    if found.numel() != probe.numel() or not torch.allclose(
        found.detach().flatten(), expected, rtol=tolerance, atol=tolerance
    ):
        raise ValueError(
            f"{type(model).__name__} does something else to its logits than the configuration's softcap "
            f"({state.softcap}) and scale ({state.scale}) say: expected {expected.tolist()} of {list(_PROBE)}, found "
            f"{found.flatten().tolist()}; use cce_torch.linear_cross_entropy in its forward instead"
        )
    state.checked = True
