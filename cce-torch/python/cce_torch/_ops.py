"""The two operators, ``cce_torch::forward`` and ``cce_torch::backward``, for eager mode and compiled graphs alike.

The forward gives, besides its results, what its backward needs: a byte tensor as large as the plan says, and the
seed that it drew. Autograd keeps both like any other saved tensor, so that forwards and backwards of any number of
calls may interleave. The rest of a workspace lives as long as one call.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _matrices, _native, _seeds
from ._plans import PlanKey, plan_for, plan_key
from ._spec import Spec, describe, parse

#: Types of tensors that nothing but the operators themselves has a say in.
_PLAIN = (Tensor, torch.nn.Parameter)

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


class _Layout(NamedTuple):
    """What follows from the kinds of a call's tensors, see :func:`_kind`."""

    plan: PlanKey
    #: Row stride and alignment of E and C as the plan takes them.
    layouts: tuple[tuple[int, int], tuple[int, int]]
    #: Elements from the first to the last, where the matrix lies so already; else None: it has to be copied.
    hidden_span: int | None
    classifier_span: int | None
    tokens: int


#: By spec, kinds and device. More than these are not kept; each is some hundred bytes.
_LAYOUTS: dict[Hashable, _Layout] = {}
_MOST_LAYOUTS = 4096


def _layout(
    spec: Spec, e: Tensor, c: Tensor, targets: Tensor | None, kind: tuple[int, ...], was: tuple[int, ...] | None
) -> _Layout:
    """The layout of these tensors, whose kind is ``kind``, and was ``was`` in the forward if that was another."""
    # A spec's identity is its own: each is made once, and lives as long as the process.
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

    made = _Layout(plan, layouts, in_place(e, rows, 0), in_place(c, classifier, 1), rows.shape[0])
    if len(_LAYOUTS) >= _MOST_LAYOUTS:
        _LAYOUTS.clear()
    _LAYOUTS[key] = made
    return made


class _Call:
    """A plan and its inputs as the native side takes them."""

    __slots__ = ("device", "given", "plan", "spec", "tensors", "tokens")

    def __init__(
        self,
        spec: Spec,
        e: Tensor,
        c: Tensor,
        targets: Tensor | None,
        tensors: list[Tensor],
        numbers: list[float],
        kind: tuple[int, ...],
        was: tuple[int, ...] | None = None,
        plan: _native.Plan | None = None,
    ) -> None:
        """``kind`` is that of the tensors. In a backward, ``was`` says how they were in its forward, see :func:`_kind`,
        and ``plan`` is that forward's, where it could be kept."""
        layout = _layout(spec, e, c, targets, kind, None if was == kind else was)
        self.plan = plan or plan_for(spec, layout.plan)
        # What the addresses below point to lives as long as the call does.
        rows, hidden = _matrix(e, spec, layout.hidden_span, layout.layouts[0])
        classifier, head = _matrix(c, spec, layout.classifier_span, layout.layouts[1])
        indices = None if targets is None else _matrices.as_line(targets)
        named: list[tuple[str, int, int]] = []
        if tensors:
            tensors = [_as_f32(name, tensor) for name, tensor in zip(spec.tensors, tensors, strict=True)]
            named = [(name, t.data_ptr(), t.numel()) for name, t in zip(spec.tensors, tensors, strict=True)]
        self.tensors = (rows, classifier, indices, tensors)
        self.given = (
            hidden,
            head,
            None if indices is None else (indices.data_ptr(), indices.numel()),
            named,
            list(zip(spec.numbers, numbers, strict=True)) if numbers else [],
        )
        self.tokens, self.device, self.spec = layout.tokens, e.device, spec

    def settings(self, seed: Tensor | None) -> tuple[str, int | None, int | None, bool]:
        # The stream's address alone: without an object of torch's around it.
        stream = None if self.device.index is None else torch._C._cuda_getCurrentRawStream(self.device.index)
        # A plan that does not sample drew nothing.
        address = seed.data_ptr() if seed is not None and seed.numel() == 1 else None
        return self.spec.reduction, address, stream, self.spec.check_targets

    def bytes(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self.device)


def _matrix(
    tensor: Tensor, spec: Spec, in_place: int | None, layout: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    """The matrix in this layout, with its span; ``in_place`` is that of the tensor if it has the layout already."""
    address = tensor.data_ptr()
    # An address is another every time: the layout says its alignment, not the tensor's kind.
    if in_place is not None and address % layout[1] == 0:
        return tensor, (address, in_place)
    rows = _matrices.laid_out(_matrices.as_rows(tensor, _matrices.TORCH_DTYPES[spec.compute]), layout)
    return rows, _matrices.span(rows)


def _as_f32(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32:
        raise RuntimeError(f"`{name}` is {tensor.dtype}, expected torch.float32, as it was given")
    return tensor.contiguous()


_CODES = {None: -1} | {dtype: at for at, dtype in enumerate((*_matrices.DTYPES, *_matrices.INDICES))}


def _kind(e: Tensor, c: Tensor, targets: Tensor | None) -> tuple[int, ...]:
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


def _whole(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.numel()


def _typed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Most are, and torch's own test of it costs a call.
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _forward(
    e: Tensor,
    c: Tensor,
    targets: Tensor | None,
    tensors: list[Tensor],
    numbers: list[float],
    seed: Tensor | None,
    spec: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    reduced, rows, held, drawn, _ = _run_forward(e, c, targets, tensors, numbers, seed, spec, _kind(e, c, targets))

    def there(tensor: Tensor | None, dtype: torch.dtype, *shape: int) -> Tensor:
        # An operator has all of its results.
        return torch.empty(shape, dtype=dtype, device=e.device) if tensor is None else tensor

    return (
        there(reduced, torch.float32, 0),
        there(rows, torch.float32, 0, e.shape[:-1].numel()),
        held,
        there(drawn, torch.int64, 0),
    )


def _run_forward(
    e: Tensor,
    c: Tensor,
    targets: Tensor | None,
    tensors: list[Tensor],
    numbers: list[float],
    seed: Tensor | None,
    spec: str,
    kind: tuple[int, ...],
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor | None, _native.Plan]:
    """The results, what is held, the seed that was drawn, and the plan; None for what there is not."""
    parsed = parse(spec)
    call = _Call(parsed, e, c, targets, tensors, numbers, kind)
    plan, device = call.plan, call.device
    drawn = _seeds.draw(device) if seed is None and plan.samples else None
    held, rest = call.bytes(plan.held), call.bytes(plan.rest)
    reduced = e.new_empty((), dtype=torch.float32) if parsed.reduced else None
    rows = torch.empty(len(parsed.rows), call.tokens, dtype=torch.float32, device=device) if parsed.rows else None
    _native.forward(
        plan,
        call.given,
        call.settings(seed if drawn is None else drawn),
        _whole(held),
        _whole(rest),
        [] if reduced is None else [("loss", reduced.data_ptr())],
        [] if rows is None else _places(rows, parsed, call.tokens),
    )
    return reduced, rows, held, drawn, plan


def _places(rows: Tensor, spec: Spec, tokens: int) -> list[tuple[str, int]]:
    """Where the values of each output are that is wanted token by token."""
    base = rows.data_ptr()
    return [(name, base + 4 * tokens * at) for at, name in enumerate(spec.rows)]


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
    was: Sequence[int],
    spec: str,
    main_grad: Tensor | None = None,
    plan: _native.Plan | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    parsed = parse(spec)
    call = _Call(parsed, e, c, targets, tensors, numbers, _kind(e, c, targets), tuple(was), plan)
    plan = call.plan
    if held.dtype != torch.uint8 or held.shape != (plan.held,) or held.device != call.device:
        raise RuntimeError(
            f"what the forward left came back from its hooks as {held.dtype} {list(held.shape)} on {held.device}, "
            f"expected torch.uint8 [{plan.held}] on {call.device}; let the unpack hook give back what the pack hook was"
            " given"
        )
    rest = call.bytes(plan.rest)
    # Saved tensors may come back at another address, from a host that keeps them meanwhile, say. The native side wants
    # what torch's own allocations have.
    align = 256 if call.device.type == "cuda" else 64
    held = held.contiguous()
    held = held if held.data_ptr() % align == 0 else held.clone()

    def gradient(wanted: bool, of: Tensor) -> Tensor:
        if not wanted:
            return torch.empty(0, dtype=of.dtype, device=call.device)
        own = _matrices.DTYPES[of.dtype] == parsed.compute
        # A third of the time that torch.empty takes to read a shape.
        return torch.empty_like(of, dtype=of.dtype if own else torch.float32, memory_format=torch.contiguous_format)

    d_e = gradient(parsed.gradient_e, e)
    d_c = gradient(parsed.gradient_c and main_grad is None, c)
    if main_grad is not None:
        torch.autograd.graph.increment_version(main_grad)
    d_tensors = [
        torch.empty_like(tensor, dtype=torch.float32, memory_format=torch.contiguous_format)
        for tensor in _of(parsed, tensors)
    ]
    d_reduced = None if d_reduced is None else _typed(d_reduced, torch.float32)
    d_rows = None if d_rows is None else _typed(d_rows, torch.float32).contiguous()
    _native.backward(
        plan,
        call.given,
        call.settings(seed),
        _whole(held),
        _whole(rest),
        [] if d_reduced is None else [("loss", d_reduced.data_ptr())],
        []
        if d_rows is None
        else [
            (name, at)
            for name, at in _places(d_rows, parsed, call.tokens)
            if (name, True) in describe(parsed.program).outputs
        ],
        d_e.data_ptr() if parsed.gradient_e else None,
        (d_c if main_grad is None else main_grad).data_ptr() if parsed.gradient_c else None,
        [(name, t.data_ptr()) for name, t in zip(parsed.gradient_inputs, d_tensors, strict=True)] if d_tensors else [],
    )
    return _typed(d_e, e.dtype), _typed(d_c, c.dtype), d_tensors


def _of(spec: Spec, tensors: list[Tensor]) -> list[Tensor]:
    """The tensors whose gradients are wanted, in the order of the wish."""
    if not spec.gradient_inputs:
        return []
    named = dict(zip(spec.tensors, tensors, strict=True))
    return [named[name] for name in spec.gradient_inputs]


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
        [tensor.new_empty(tensor.shape, dtype=torch.float32) for tensor in _of(parsed, tensors)],
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    e, c, targets, tensors, numbers, seed, spec = inputs
    _, _, held, drawn = output
    ctx.mark_non_differentiable(held, drawn)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(e, c, targets, held, drawn, seed, *tensors)
    ctx.numbers, ctx.spec, ctx.was = numbers, spec, list(_kind(e, c, targets))


def _differentiate(ctx: Any, d_reduced: Tensor | None, d_rows: Tensor | None, *_: Any) -> tuple[Any, ...]:
    return _gradients(ctx, d_reduced, d_rows)


def _gradients(
    ctx: Any,
    d_reduced: Tensor | None,
    d_rows: Tensor | None,
    main_grad: Tensor | None = None,
    plan: _native.Plan | None = None,
) -> tuple[Any, ...]:
    e, c, targets, held, drawn, seed, *tensors = ctx.saved_tensors
    spec = parse(ctx.spec)
    # In autograd's eyes a list of numbers is one argument, and an empty list is a list of tensors.
    no_numbers: list[None] | None = None if ctx.numbers else []
    if d_reduced is None and d_rows is None:
        return None, None, None, [None] * len(tensors), no_numbers, None, None
    seed = drawn if seed is None else seed
    arguments = (d_reduced, d_rows, e, c, targets, tensors, ctx.numbers, held, seed, ctx.was, ctx.spec)
    # The operator itself where a graph of the gradients is wanted, or is being traced: it refuses to be
    # differentiated, which plain code would not.
    if torch.is_grad_enabled() or not are_plain(e, c, targets, held, seed, *tensors) or not _is_eager():
        if main_grad is not None:
            raise RuntimeError("`main_grad` is for plain backward passes, without `create_graph`")
        d_e, d_c, d_tensors = torch.ops.cce_torch.backward.default(*arguments)
    else:
        d_e, d_c, d_tensors = _backward(*arguments, main_grad, plan)
    by_name = dict(zip(spec.gradient_inputs, d_tensors, strict=True)) if d_tensors else {}
    return (
        d_e if spec.gradient_e else None,
        d_c if spec.gradient_c and main_grad is None else None,
        None,
        [by_name.get(name) for name in spec.tensors],
        no_numbers,
        None,
        None,
    )


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


def are_plain(*tensors: Tensor | None) -> bool:
    return all(tensor is None or type(tensor) in _PLAIN for tensor in tensors)


def _is_eager() -> bool:
    """Nothing traces, transforms or intercepts operators."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
    )


class _Plain(NamedTuple):
    """What a call has besides tensors that may learn: autograd passes one object for all of it."""

    spec: str
    numbers: list[float]
    targets: Tensor | None
    seed: Tensor | None
    main_grad: Tensor | None


class _Direct(torch.autograd.Function):
    """The operators without the dispatcher: for plain tensors in eager mode, where it would take most of a call's time
    on the host."""

    @staticmethod
    def forward(
        ctx: Any, call: _Plain, e: Tensor, c: Tensor, *tensors: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """The results, None for one that there is not; what a backward needs is kept in ``ctx``."""
        spec, numbers, targets, seed, main_grad = call
        kind = _kind(e, c, targets)
        reduced, rows, held, drawn, plan = _run_forward(e, c, targets, list(tensors), numbers, seed, spec, kind)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(e, c, targets, held, drawn, seed, *tensors)
        ctx.numbers, ctx.spec, ctx.main_grad = numbers, spec, main_grad
        # Kept with what it left: no other plan ever reads that.
        ctx.was, ctx.plan = kind, plan
        return reduced, rows

    @staticmethod
    def backward(ctx: Any, d_reduced: Tensor | None, d_rows: Tensor | None) -> Any:
        """The gradients of forward's arguments."""
        d_e, d_c, _, d_tensors, *_ = _gradients(ctx, d_reduced, d_rows, ctx.main_grad, ctx.plan)
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
    if are_plain(e, c, targets, seed, main_grad, *tensors) and _is_eager():
        plain = _Plain(spec, numbers, targets, seed, main_grad)
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
    reduced, rows, _, _ = forward(e, c, targets, tensors, numbers, seed, spec)
    return reduced, rows
