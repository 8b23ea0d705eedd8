"""A plan's forward and backward on tensors: what is allocated, what is handed over, what comes back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _layouts, _matrices, _native, _seeds
from ._spec import Spec, describe


def run_forward(
    spec: Spec,
    plan: _native.Plan,
    layout: _layouts.Layout,
    e: Tensor,
    c: Tensor,
    targets: Tensor | None,
    tensors: Sequence[Tensor],
    numbers: list[float],
    seed: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor | None]:
    """The results, what is held, and the seed that was drawn; None for what there is not."""
    device = e.device
    drawn = _seeds.draw(device) if seed is None and plan.samples else None
    given = _layouts.given(spec, layout, e, c, targets, tensors, numbers)
    held_bytes, rest_bytes = plan.held, plan.rest
    held = torch.empty(held_bytes, dtype=torch.uint8, device=device)
    rest = torch.empty(rest_bytes, dtype=torch.uint8, device=device)
    reduced = e.new_empty((), dtype=torch.float32) if spec.reduced else None
    rows = torch.empty(len(spec.rows), layout.tokens, dtype=torch.float32, device=device) if spec.rows else None
    _native.forward(
        plan,
        given.native,
        _layouts.settings(spec, device, seed if drawn is None else drawn),
        (held.data_ptr(), held_bytes),
        (rest.data_ptr(), rest_bytes),
        [] if reduced is None else [("loss", reduced.data_ptr())],
        [] if rows is None else _places(rows, spec, layout.tokens),
    )
    return reduced, rows, held, drawn


def run_backward(
    spec: Spec,
    plan: _native.Plan,
    layout: _layouts.Layout,
    d_reduced: Tensor | None,
    d_rows: Tensor | None,
    e: Tensor,
    c: Tensor,
    targets: Tensor | None,
    tensors: Sequence[Tensor],
    numbers: list[float],
    held: Tensor,
    seed: Tensor | None,
    main_grad: Tensor | None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The gradients of E, C and those of ``tensors`` that want one; C's is empty where ``main_grad`` takes it."""
    device, held_bytes, rest_bytes = e.device, plan.held, plan.rest
    if held.dtype != torch.uint8 or held.shape != (held_bytes,) or held.device != device:
        raise RuntimeError(
            f"what the forward left came back from its hooks as {held.dtype} {list(held.shape)} on {held.device}, "
            f"expected torch.uint8 [{held_bytes}] on {device}; let the unpack hook give back what the pack hook was"
            " given"
        )
    given = _layouts.given(spec, layout, e, c, targets, tensors, numbers)
    rest = torch.empty(rest_bytes, dtype=torch.uint8, device=device)
    # Saved tensors may come back at another address, from a host that keeps them meanwhile, say. The native side wants
    # what torch's own allocations have.
    if held.data_ptr() % (64 if device.index is None else 256) or not held.is_contiguous():
        held = held.clone(memory_format=torch.contiguous_format)

    def gradient(wanted: bool, of: Tensor) -> Tensor:
        if not wanted:
            return torch.empty(0, dtype=of.dtype, device=device)
        own = _matrices.DTYPES[of.dtype] == spec.compute
        # A third of the time that torch.empty takes to read a shape.
        return torch.empty_like(of, dtype=of.dtype if own else torch.float32, memory_format=torch.contiguous_format)

    d_e = gradient(spec.gradient_e, e)
    d_c = gradient(spec.gradient_c and main_grad is None, c)
    if main_grad is not None:
        torch.autograd.graph.increment_version(main_grad)
    d_tensors = [
        torch.empty_like(tensor, dtype=torch.float32, memory_format=torch.contiguous_format)
        for tensor in wanted(spec, tensors)
    ]
    if d_reduced is not None:
        d_reduced = _typed(d_reduced, torch.float32)
    places: list[tuple[str, int]] = []
    if d_rows is not None:
        d_rows = _typed(d_rows, torch.float32).contiguous()
        outputs = describe(spec.program).outputs
        places = [(name, at) for name, at in _places(d_rows, spec, layout.tokens) if (name, True) in outputs]
    _native.backward(
        plan,
        given.native,
        _layouts.settings(spec, device, seed),
        (held.data_ptr(), held_bytes),
        (rest.data_ptr(), rest_bytes),
        [] if d_reduced is None else [("loss", d_reduced.data_ptr())],
        places,
        d_e.data_ptr() if spec.gradient_e else None,
        (d_c if main_grad is None else main_grad).data_ptr() if spec.gradient_c else None,
        [(name, t.data_ptr()) for name, t in zip(spec.gradient_inputs, d_tensors, strict=True)] if d_tensors else [],
    )
    return _typed(d_e, e.dtype), _typed(d_c, c.dtype), d_tensors


def _places(rows: Tensor, spec: Spec, tokens: int) -> list[tuple[str, int]]:
    """Where the values of each output are that is wanted token by token."""
    base = rows.data_ptr()
    return [(name, base + 4 * tokens * at) for at, name in enumerate(spec.rows)]


def wanted(spec: Spec, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors whose gradients are wanted, in the order of the wish."""
    if not spec.gradient_inputs:
        return []
    named = dict(zip(spec.tensors, tensors, strict=True))
    return [named[name] for name in spec.gradient_inputs]


def by_input(
    spec: Spec, gradients: tuple[Tensor, Tensor, list[Tensor]]
) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:
    """As autograd wants them: None for an input that has none."""
    d_e, d_c, d_tensors = gradients
    by_name = dict(zip(spec.gradient_inputs, d_tensors, strict=True)) if d_tensors else {}
    return (
        d_e if spec.gradient_e else None,
        d_c if spec.gradient_c and spec.main_grad is None else None,
        [by_name.get(name) for name in spec.tensors],
    )


def _typed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Most are, and torch's own test of it costs a call.
    return tensor if tensor.dtype == dtype else tensor.to(dtype)
