"""What a call's plan follows from, of its tensors, and where they are for the native side.

Tensors of the same shapes, strides and types have one :class:`Layout`, which is looked up by a tuple of numbers: most
calls are like an earlier one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _matrices
from ._plans import PlanKey, plan_key
from ._spec import Spec


class Layout(NamedTuple):
    """What follows from the kinds of a call's tensors, see :func:`kind_of`."""

    plan: PlanKey
    #: Row stride and alignment of E and C as the plan takes them.
    layouts: tuple[tuple[int, int], tuple[int, int]]
    #: Elements from the first to the last, where the matrix lies so already; else None: it has to be copied.
    hidden_span: int | None
    classifier_span: int | None
    tokens: int


#: By spec, kinds and device. More than these are not kept; each is some hundred bytes.
_LAYOUTS: dict[Hashable, Layout] = {}
_MOST_LAYOUTS = 4096


def layout_of(
    spec: Spec, e: Tensor, c: Tensor, targets: Tensor | None, kind: tuple[int, ...], was: tuple[int, ...] | None
) -> Layout:
    """The layout of these tensors, whose kind is ``kind``, and was ``was`` in the forward if that was another."""
    # A spec's identity is its own: each is made once, and lives as long as the process.
    if was == kind:
        was = None
    key = (id(spec), e.device, kind, was)
    known = _LAYOUTS.get(key)
    if known is not None:
        return known
    compute = _matrices.TORCH_DTYPES[spec.compute]
    rows, classifier = _matrices.as_rows(e, compute), _matrices.as_rows(c, compute)
    own = _matrices.layout(rows, e.device.type), _matrices.layout(classifier, c.device.type)
    layouts = own if was is None else _layouts_of(was, kind, e, c, targets, compute)
    index = None if targets is None else targets.dtype
    plan = plan_key(spec, rows, classifier, index, (e.dtype, c.dtype), layouts)

    def in_place(given: Tensor, matrix: Tensor, at: int) -> int | None:
        same = matrix.data_ptr() == given.data_ptr() and matrix.dtype == given.dtype and own[at] == layouts[at]
        return _matrices.span(matrix)[1] if same else None

    made = Layout(plan, layouts, in_place(e, rows, 0), in_place(c, classifier, 1), rows.shape[0])
    if len(_LAYOUTS) >= _MOST_LAYOUTS:
        _LAYOUTS.clear()
    _LAYOUTS[key] = made
    return made


class Given(NamedTuple):
    """A call's inputs as the native side takes them, and the tensors that the addresses point to: they live as long as
    the call does."""

    native: tuple[Any, ...]
    tensors: tuple[Any, ...]


def given(
    spec: Spec,
    layout: Layout,
    e: Tensor,
    c: Tensor,
    targets: Tensor | None,
    tensors: Sequence[Tensor],
    numbers: list[float],
) -> Given:
    """A call's inputs: matrices that lie otherwise than the plan takes them are copied."""
    named: list[tuple[str, int, int]] = []
    if tensors:
        tensors = [_as_f32(name, tensor) for name, tensor in zip(spec.tensors, tensors, strict=True)]
        named = [(name, t.data_ptr(), t.numel()) for name, t in zip(spec.tensors, tensors, strict=True)]
    # An address is another every time: the layout says its alignment, not the tensor's kind.
    hidden = e.data_ptr(), layout.hidden_span
    if hidden[1] is None or hidden[0] % layout.layouts[0][1]:
        e, hidden = _laid_out(e, spec, layout.layouts[0])
    head = c.data_ptr(), layout.classifier_span
    if head[1] is None or head[0] % layout.layouts[1][1]:
        c, head = _laid_out(c, spec, layout.layouts[1])
    indices = None
    if targets is not None:
        targets = _matrices.as_line(targets)
        indices = targets.data_ptr(), targets.numel()
    numbered = list(zip(spec.numbers, numbers, strict=True)) if numbers else []
    return Given((hidden, head, indices, named, numbered), (e, c, targets, tensors))


def _laid_out(tensor: Tensor, spec: Spec, layout: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """The matrix in this layout, with its span."""
    rows = _matrices.laid_out(_matrices.as_rows(tensor, _matrices.TORCH_DTYPES[spec.compute]), layout)
    return rows, _matrices.span(rows)


def settings(spec: Spec, device: torch.device, seed: Tensor | None) -> tuple[str, int | None, int | None, bool]:
    """Reduction, the addresses of seed and stream, and whether targets are checked."""
    index = device.index
    # The stream's address alone: without an object of torch's around it.
    stream = None if index is None else torch._C._cuda_getCurrentRawStream(index)
    # A plan that does not sample drew nothing.
    address = seed.data_ptr() if seed is not None and seed.numel() == 1 else None
    return spec.reduction, address, stream, spec.check_targets


def _as_f32(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32:
        raise RuntimeError(f"`{name}` is {tensor.dtype}, expected torch.float32, as it was given")
    return tensor.contiguous()


_CODES = {None: -1} | {dtype: at for at, dtype in enumerate((*_matrices.DTYPES, *_matrices.INDICES))}


def kind_of(e: Tensor, c: Tensor, targets: Tensor | None) -> tuple[int, ...]:
    """What a call's plan follows from, of its tensors: shapes and strides of E and C, and all types.

    Tensors may come out of autograd with other strides than they went in with, where hooks keep them elsewhere. A
    backward that gets this from its forward runs that forward's plan still.
    """
    other = len(_CODES)
    types = (
        _CODES.get(e.dtype, other),
        _CODES.get(c.dtype, other),
        _CODES.get(None if targets is None else targets.dtype, other),
    )
    return (*e.shape, *c.shape, *e.stride(), *c.stride(), *types)


def _layouts_of(
    was: tuple[int, ...],
    now: tuple[int, ...],
    e: Tensor,
    c: Tensor,
    targets: Tensor | None,
    compute: torch.dtype,
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The layouts of a forward whose tensors came back with other strides; an error where more is different."""
    dims = e.dim() + c.dim()
    if now[:dims] != was[:dims] or now[2 * dims :] != was[2 * dims :]:
        found = ", ".join(f"{t.dtype} {list(t.shape)}" for t in (e, c, targets) if t is not None)
        raise RuntimeError(
            "a saved tensor came back from its hooks as another: expected shapes and types as in the forward, found "
            f"{found} for `e`, `c` and `targets`; let the unpack hook give back what the pack hook was given"
        )
    strides = was[dims : 2 * dims]
    return (
        _matrices.layout_of(e.shape, strides[: e.dim()], e.dtype, compute, e.device.type),
        _matrices.layout_of(c.shape, strides[e.dim() :], c.dtype, compute, c.device.type),
    )
