"""A call: the operators without torch's dispatcher where that is possible, else through it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _eager, _layouts, _native, _ops, _run
from ._plans import plan_for
from ._spec import Spec, parse


class _Plain(NamedTuple):
    """What a call has besides tensors that may learn: autograd passes one object for all of it."""

    spec: Spec
    #: The spec's text.
    text: str
    numbers: list[float]
    targets: Tensor | None
    seed: Tensor | None
    main_grad: Tensor | None


class _Pending(NamedTuple):
    """What a backward needs besides tensors."""

    spec: Spec
    text: str
    numbers: list[float]
    main_grad: Tensor | None
    #: The kind of the forward's tensors, and what followed from it.
    kind: tuple[int, ...]
    layout: _layouts.Layout
    #: Kept with what it left: no other plan ever reads that.
    plan: _native.Plan


class _Direct(torch.autograd.Function):
    """The operators without the dispatcher: for plain tensors in eager mode, where it would take most of a call's time
    on the host."""

    @staticmethod
    def forward(ctx: Any, call: _Plain, e: Tensor, c: Tensor, *tensors: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The results, None for one that there is not; what a backward needs is kept in ``ctx``."""
        spec, text, numbers, targets, seed, main_grad = call
        kind = _layouts.kind_of(e, c, targets)
        layout = _layouts.layout_of(spec, e, c, targets, kind, None)
        plan = plan_for(spec, layout.plan)
        reduced, rows, held, drawn = _run.run_forward(spec, plan, layout, e, c, targets, tensors, numbers, seed)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(e, c, targets, held, seed if drawn is None else drawn, *tensors)
        ctx.pending = _Pending(spec, text, numbers, main_grad, kind, layout, plan)
        return reduced, rows

    @staticmethod
    def backward(ctx: Any, d_reduced: Tensor | None, d_rows: Tensor | None) -> Any:
        """The gradients of forward's arguments."""
        spec, text, numbers, main_grad, was, layout, plan = ctx.pending
        e, c, targets, held, seed, *tensors = ctx.saved_tensors
        if d_reduced is None and d_rows is None:
            return None, None, None, *(None for _ in tensors)
        plain = _eager.are_plain(e, c, targets, held, seed, *tensors)
        if torch.is_grad_enabled() or not plain or not _eager.is_eager():
            if main_grad is not None:
                raise RuntimeError("`main_grad` is for plain backward passes, without `create_graph`")
            # The operator refuses to be differentiated, which plain code would not.
            gradients = torch.ops.cce_torch.backward.default(
                d_reduced, d_rows, e, c, targets, tensors, numbers, held, seed, list(was), text
            )
        else:
            kind = _layouts.kind_of(e, c, targets)
            if kind != was:
                layout = _layouts.layout_of(spec, e, c, targets, kind, was)
            gradients = _run.run_backward(
                spec, plan, layout, d_reduced, d_rows, e, c, targets, tensors, numbers, held, seed, main_grad
            )
        d_e, d_c, d_tensors = _run.by_input(spec, gradients)
        return None, d_e, d_c, *d_tensors

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Refuses forward mode."""
        raise RuntimeError("cce_torch has no forward-mode derivatives: use `backward` or torch.autograd.grad")


def call(
    e: Tensor,
    c: Tensor,
    targets: Tensor | None,
    tensors: list[Tensor],
    numbers: list[float],
    seed: Tensor | None,
    spec: str,
    main_grad: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """The reduced output and the rows, None or empty if not wanted; see the operator ``forward``. C's gradient is added
    to ``main_grad``, if there is one."""
    if _eager.are_plain(e, c, targets, seed, main_grad, *tensors) and _eager.is_eager():
        plain = _Plain(parse(spec), spec, numbers, targets, seed, main_grad)
        return _Direct.apply(plain, e, c, *tensors)  # type: ignore[no-any-return]
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        raise RuntimeError(
            "cce_torch does not work under the transforms of torch.func (grad, vjp, jvp, vmap and those made of them): "
            "use `backward` or torch.autograd.grad for gradients; instead of vmap pass the batch in the leading "
            "dimensions of `e` and `targets`, with reduction='none' for a loss a token"
        )
    if main_grad is not None:
        raise ValueError(
            "`main_grad` is for eager mode and plain tensors: leave it out of what torch.compile or torch.func is to "
            "trace, and of calls on subclasses of tensors"
        )
    reduced, rows, _, _ = _ops.forward(e, c, targets, tensors, numbers, seed, spec)
    return reduced, rows
