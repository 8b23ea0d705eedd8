"""The losses as modules."""

from __future__ import annotations

import inspect

from torch import Tensor, nn

from . import _options
from ._call import FilterName, Reduction
from .functional import NAMES, linear_cross_entropy, program_inputs


class LinearCrossEntropy(nn.Module):
    """:func:`cce_torch.linear_cross_entropy` with its options fixed; it has no parameters of its own.

    ``loss(e, c, targets, bias=None)``: hidden states [..., D], the head's weight [V, D], targets [...].
    """

    def __init__(
        self,
        *,
        ignore_index: int = -100,
        softcap: float | None = None,
        reduction: Reduction = "mean",
        shift: int | bool = 0,
        return_lse: bool = False,
        filter: FilterName | None = None,
        filter_eps: float | None = None,
        max_entries: int | None = None,
        logit_scale: float | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        weight: Tensor | None = None,
        check_targets: bool = False,
    ) -> None:
        super().__init__()
        _options.reduction(reduction)
        _options.shift(shift)
        _options.ignore_index(ignore_index)
        _options.filter_text(filter, filter_eps, max_entries)
        _options.flag("return_lse", return_lse)
        _options.flag("check_targets", check_targets)
        given = program_inputs(None, weight, logit_scale, softcap, label_smoothing, z_loss)
        for name, value in given.items():
            if isinstance(value, Tensor) and name != "weight":
                _options.one_element(NAMES.get(name, name), value)
        self.ignore_index = ignore_index
        self.softcap = softcap
        self.reduction = reduction
        self.shift = shift
        self.return_lse = return_lse
        self.filter = filter
        self.filter_eps = filter_eps
        self.max_entries = max_entries
        self.logit_scale = logit_scale
        self.label_smoothing = label_smoothing
        self.z_loss = z_loss
        self.check_targets = check_targets
        self.weight: Tensor | None
        self.register_buffer("weight", weight)

    def forward(
        self, e: Tensor, c: Tensor, targets: Tensor, bias: Tensor | None = None, seed: int | Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The loss, and with ``return_lse`` the lse."""
        return linear_cross_entropy(  # type: ignore[call-overload, misc, no-any-return]
            e,
            c,
            targets,
            bias,
            ignore_index=self.ignore_index,
            softcap=self.softcap,
            reduction=self.reduction,
            shift=self.shift,
            return_lse=self.return_lse,
            filter=self.filter,
            filter_eps=self.filter_eps,
            max_entries=self.max_entries,
            seed=seed,
            logit_scale=self.logit_scale,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            weight=self.weight,
            check_targets=self.check_targets,
        )

    def extra_repr(self) -> str:
        """The options that are not the default."""
        parts = []
        for name, parameter in inspect.signature(LinearCrossEntropy.__init__).parameters.items():
            value = getattr(self, name, parameter.default)
            if isinstance(value, Tensor):
                parts.append(f"{name}=tensor of shape {list(value.shape)}")
            elif value != parameter.default:
                parts.append(f"{name}={value!r}")
        return ", ".join(parts)
