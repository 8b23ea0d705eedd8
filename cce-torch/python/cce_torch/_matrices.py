"""Tensors as the native side takes them: rows with one stride, a known alignment, an address."""

from __future__ import annotations

from collections.abc import Sequence

import torch

DTYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}
INDICES = {torch.int32: "i32", torch.int64: "i64"}


def as_rows(tensor: torch.Tensor, compute: torch.dtype) -> torch.Tensor:
    """``[..., D]`` as ``[N, D]`` of type ``compute``, inner stride 1, no rows that overlap.

    No copy where the tensor is such already; else one, which lives as long as the call.
    """
    hidden = tensor.shape[-1]
    rows = tensor if tensor.dim() == 2 else tensor.reshape(-1, hidden)
    if rows.dtype != compute:
        return rows.to(compute, memory_format=torch.contiguous_format)
    row_stride, inner = rows.stride()
    if (inner != 1 and hidden > 1) or (row_stride < hidden and rows.shape[0] > 1):
        return rows.contiguous()
    return rows


def as_line(tensor: torch.Tensor) -> torch.Tensor:
    """Any shape as ``[N]``, one element after the other; no copy where it lies so."""
    return tensor if tensor.dim() == 1 and tensor.is_contiguous() else tensor.reshape(-1).contiguous()


def layout(rows: torch.Tensor, device: str) -> tuple[int, int]:
    """Row stride in elements and alignment in bytes, of a matrix that :func:`as_rows` gave, on this type of device.

    Both follow from shape and strides alone, which are the same in a graph that is being traced as where it runs.
    """
    size, (count, hidden) = rows.element_size(), rows.shape
    # The stride of a single row says nothing.
    stride = max(int(rows.stride(0)), int(hidden)) if count > 1 else int(hidden)
    if device != "cuda":
        return stride, size
    align = 16
    while align > size and (stride * size) % align:
        align //= 2
    return stride, align


def layout_of(
    shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype, compute: torch.dtype, device: str
) -> tuple[int, int]:
    """The layout that a tensor of this shape and these strides had."""
    return layout(as_rows(torch.empty_strided(shape, strides, dtype=dtype, device="meta"), compute), device)


def laid_out(rows: torch.Tensor, layout: tuple[int, int]) -> torch.Tensor:
    """The matrix in this layout: a copy where its strides are others, or its address is not aligned."""
    stride, align = layout
    if rows.data_ptr() % align == 0 and (rows.shape[0] <= 1 or rows.stride(0) == stride):
        return rows
    return rows.new_empty(rows.shape[0], stride)[:, : rows.shape[1]].copy_(rows)


def span(tensor: torch.Tensor) -> tuple[int, int]:
    """Address and number of elements from the first to the last."""
    count = tensor.numel()
    if tensor.dim() == 2 and count:
        rows, hidden = tensor.shape
        count = (rows - 1) * max(tensor.stride(0), hidden) + hidden
    return tensor.data_ptr(), count
