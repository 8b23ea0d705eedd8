"""The two operators, ``cce_torch::forward`` and ``cce_torch::backward``, for eager mode and compiled graphs alike.

The forward gives, besides its results, what its backward needs: a byte tensor as large as the plan says, and the
seed that it drew. Autograd keeps both like any other saved tensor, so that forwards and backwards of any number of
calls may interleave. The rest of a workspace lives as long as one call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _eager, _layouts, _matrices, _run
from ._plans import plan_for, plan_key
from ._spec import parse

_LIBRARY = torch.library.Library("cce_torch", "DEF")

_LIBRARY.define(
    "forward(Tensor e, Tensor c, Tensor? targets, Tensor[] tensors, float[] numbers, Tensor? seed, str spec)"
    " -> (Tensor reduced, Tensor rows, Tensor held, Tensor drawn)",
    # It may draw a seed.
    tags=(torch.Tag.nondeterministic_seeded, torch.Tag.needs_exact_strides),
)
_LIBRARY.define(
    "backward(Tensor? d_reduced, Tensor? d_rows, Tensor e, Tensor c, Tensor? targets, Tensor[] tensors,"
    " float[] numbers, Tensor held, Tensor? seed, SymInt[] was, str spec)"
    " -> (Tensor d_e, Tensor d_c, Tensor[] d_tensors)",
    tags=(torch.Tag.needs_exact_strides,),
)


def _forward(
    e: Tensor,
    c: Tensor,
    targets: Tensor | None,
    tensors: list[Tensor],
    numbers: list[float],
    seed: Tensor | None,
    spec: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    parsed = parse(spec)
    layout = _layouts.layout_of(parsed, e, c, targets, _layouts.kind_of(e, c, targets), None)
    plan = plan_for(parsed, layout.plan)
    reduced, rows, held, drawn = _run.run_forward(parsed, plan, layout, e, c, targets, tensors, numbers, seed)

    def there(tensor: Tensor | None, dtype: torch.dtype, *shape: int) -> Tensor:
        # An operator has all of its results.
        return torch.empty(shape, dtype=dtype, device=e.device) if tensor is None else tensor

    return (
        there(reduced, torch.float32, 0),
        there(rows, torch.float32, 0, layout.tokens),
        held,
        there(drawn, torch.int64, 0),
    )


def _backward(
    d_reduced: Tensor | None,
    d_rows: Tensor | None,
    e: Tensor,
    c: Tensor,
    targets: Tensor | None,
    tensors: list[Tensor],
    numbers: list[float],
    held: Tensor,
    seed: Tensor | None,
    was: list[int],
    spec: str,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    parsed = parse(spec)
    layout = _layouts.layout_of(parsed, e, c, targets, _layouts.kind_of(e, c, targets), tuple(was))
    plan = plan_for(parsed, layout.plan)
    return _run.run_backward(
        parsed, plan, layout, d_reduced, d_rows, e, c, targets, tensors, numbers, held, seed, main_grad=None
    )


for _device in ("CPU", "CUDA"):
    _LIBRARY.impl("forward", _forward, _device)
    _LIBRARY.impl("backward", _backward, _device)


@torch.library.register_fake("cce_torch::forward", lib=_LIBRARY)
def _(
    e: Tensor,
    c: Tensor,
    targets: Tensor | None,
    tensors: list[Tensor],
    numbers: list[float],
    seed: Tensor | None,
    spec: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    parsed = parse(spec)
    compute = _matrices.TORCH_DTYPES[parsed.compute]
    rows, classifier = _matrices.as_rows(e, compute), _matrices.as_rows(c, compute)
    tokens = rows.shape[0]
    sizes = (*rows.shape, *classifier.shape)
    if all(isinstance(size, int) for size in sizes):
        layouts = _matrices.layout(rows, e.device.type), _matrices.layout(classifier, c.device.type)
        index = None if targets is None else targets.dtype
        plan = plan_for(parsed, plan_key(parsed, rows, classifier, index, (e.dtype, c.dtype), layouts))
        held: int | torch.SymInt = plan.held
        drawn: int | torch.SymInt = 1 if seed is None and plan.samples else 0
    else:
        # What a plan of an unknown shape holds is known when it runs.
        context = torch.library.get_ctx()
        held, drawn = context.new_dynamic_size(), context.new_dynamic_size()
    return (
        e.new_empty(() if parsed.reduced else 0, dtype=torch.float32),
        e.new_empty((len(parsed.rows), tokens), dtype=torch.float32),
        e.new_empty(held, dtype=torch.uint8),
        e.new_empty(drawn, dtype=torch.int64),
    )


@torch.library.register_fake("cce_torch::backward", lib=_LIBRARY)
def _(
    d_reduced: Tensor | None,
    d_rows: Tensor | None,
    e: Tensor,
    c: Tensor,
    targets: Tensor | None,
    tensors: list[Tensor],
    numbers: list[float],
    held: Tensor,
    seed: Tensor | None,
    was: list[int],
    spec: str,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    parsed = parse(spec)
    return (
        e.new_empty(e.shape if parsed.gradient_e else 0),
        c.new_empty(c.shape if parsed.gradient_c else 0),
        [tensor.new_empty(tensor.shape, dtype=torch.float32) for tensor in _run.wanted(parsed, tensors)],
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    e, c, targets, tensors, numbers, seed, spec = inputs
    _, _, held, drawn = output
    ctx.mark_non_differentiable(held, drawn)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(e, c, targets, held, drawn, seed, *tensors)
    ctx.numbers, ctx.spec, ctx.was = numbers, spec, list(_layouts.kind_of(e, c, targets))


def _differentiate(ctx: Any, d_reduced: Tensor | None, d_rows: Tensor | None, *_: Any) -> tuple[Any, ...]:
    e, c, targets, held, drawn, seed, *tensors = ctx.saved_tensors
    # In autograd's eyes a list of numbers is one argument, and an empty list is a list of tensors.
    no_numbers: list[None] | None = None if ctx.numbers else []
    if d_reduced is None and d_rows is None:
        return None, None, None, [None] * len(tensors), no_numbers, None, None
    seed = drawn if seed is None else seed
    arguments = (d_reduced, d_rows, e, c, targets, tensors, ctx.numbers, held, seed, ctx.was, ctx.spec)
    # The operator itself where a graph of the gradients is wanted, or is being traced: it refuses to be
    # differentiated, which plain code would not.
    if torch.is_grad_enabled() or not _eager.are_plain(e, c, targets, held, seed, *tensors) or not _eager.is_eager():
        gradients = torch.ops.cce_torch.backward.default(*arguments)
    else:
        gradients = _backward(*arguments)
    d_e, d_c, d_tensors = _run.by_input(parse(ctx.spec), gradients)
    return d_e, d_c, None, d_tensors, no_numbers, None, None


torch.library.register_autograd("cce_torch::forward", _differentiate, setup_context=_setup_context, lib=_LIBRARY)


def _keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _refuse_second(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
    raise RuntimeError(
        "cce_torch has no second derivatives: expected one backward pass, found one through its gradients; "
        "compute this loss from logits in plain PyTorch where you need them"
    )


torch.library.register_autograd("cce_torch::backward", _refuse_second, setup_context=_keep_nothing, lib=_LIBRARY)


forward = torch.ops.cce_torch.forward.default
