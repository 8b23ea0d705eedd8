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

    made = _Layout(plan, layouts, in_place(e, rows, 0), in_place(c, classifier, 1), rows.shape[0])
    if len(_LAYOUTS) >= _MOST_LAYOUTS:
        _LAYOUTS.clear()
    _LAYOUTS[key] = made
    return made


class _Given(NamedTuple):
    """A call's inputs as the native side takes them, and the tensors that the addresses point to: they live as long as
    the call does."""

    native: tuple[Any, ...]
    tensors: tuple[Any, ...]


def _given(
    spec: Spec,
    layout: _Layout,
    e: Tensor,
    c: Tensor,
    targets: Tensor | None,
    tensors: Sequence[Tensor],
    numbers: list[float],
) -> _Given:
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
    return _Given((hidden, head, indices, named, numbered), (e, c, targets, tensors))


def _laid_out(tensor: Tensor, spec: Spec, layout: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """The matrix in this layout, with its span."""
    rows = _matrices.laid_out(_matrices.as_rows(tensor, _matrices.TORCH_DTYPES[spec.compute]), layout)
    return rows, _matrices.span(rows)


def _settings(spec: Spec, device: torch.device, seed: Tensor | None) -> tuple[str, int | None, int | None, bool]:
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
    parsed = parse(spec)
    layout = _layout(parsed, e, c, targets, _kind(e, c, targets), None)
    plan = plan_for(parsed, layout.plan)
    reduced, rows, held, drawn = _run_forward(parsed, plan, layout, e, c, targets, tensors, numbers, seed)

    def there(tensor: Tensor | None, dtype: torch.dtype, *shape: int) -> Tensor:
        # An operator has all of its results.
        return torch.empty(shape, dtype=dtype, device=e.device) if tensor is None else tensor

    return (
        there(reduced, torch.float32, 0),
        there(rows, torch.float32, 0, layout.tokens),
        held,
        there(drawn, torch.int64, 0),
    )


def _run_forward(
    spec: Spec,
    plan: _native.Plan,
    layout: _Layout,
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
    given = _given(spec, layout, e, c, targets, tensors, numbers)
    held_bytes, rest_bytes = plan.held, plan.rest
    held = torch.empty(held_bytes, dtype=torch.uint8, device=device)
    rest = torch.empty(rest_bytes, dtype=torch.uint8, device=device)
    reduced = e.new_empty((), dtype=torch.float32) if spec.reduced else None
    rows = torch.empty(len(spec.rows), layout.tokens, dtype=torch.float32, device=device) if spec.rows else None
    _native.forward(
        plan,
        given.native,
        _settings(spec, device, seed if drawn is None else drawn),
        (held.data_ptr(), held_bytes),
        (rest.data_ptr(), rest_bytes),
        [] if reduced is None else [("loss", reduced.data_ptr())],
        [] if rows is None else _places(rows, spec, layout.tokens),
    )
    return reduced, rows, held, drawn


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
    was: list[int],
    spec: str,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    parsed = parse(spec)
    layout = _layout(parsed, e, c, targets, _kind(e, c, targets), tuple(was))
    plan = plan_for(parsed, layout.plan)
    return _run_backward(
        parsed, plan, layout, d_reduced, d_rows, e, c, targets, tensors, numbers, held, seed, main_grad=None
    )


def _run_backward(
    spec: Spec,
    plan: _native.Plan,
    layout: _Layout,
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
    given = _given(spec, layout, e, c, targets, tensors, numbers)
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
        for tensor in _of(spec, tensors)
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
        _settings(spec, device, seed),
        (held.data_ptr(), held_bytes),
        (rest.data_ptr(), rest_bytes),
        [] if d_reduced is None else [("loss", d_reduced.data_ptr())],
        places,
        d_e.data_ptr() if spec.gradient_e else None,
        (d_c if main_grad is None else main_grad).data_ptr() if spec.gradient_c else None,
        [(name, t.data_ptr()) for name, t in zip(spec.gradient_inputs, d_tensors, strict=True)] if d_tensors else [],
    )
    return _typed(d_e, e.dtype), _typed(d_c, c.dtype), d_tensors


def _of(spec: Spec, tensors: Sequence[Tensor]) -> list[Tensor]:
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
    e, c, targets, held, drawn, seed, *tensors = ctx.saved_tensors
    # In autograd's eyes a list of numbers is one argument, and an empty list is a list of tensors.
    no_numbers: list[None] | None = None if ctx.numbers else []
    if d_reduced is None and d_rows is None:
        return None, None, None, [None] * len(tensors), no_numbers, None, None
    seed = drawn if seed is None else seed
    arguments = (d_reduced, d_rows, e, c, targets, tensors, ctx.numbers, held, seed, ctx.was, ctx.spec)
    # The operator itself where a graph of the gradients is wanted, or is being traced: it refuses to be
    # differentiated, which plain code would not.
    if torch.is_grad_enabled() or not are_plain(e, c, targets, held, seed, *tensors) or not _is_eager():
        gradients = torch.ops.cce_torch.backward.default(*arguments)
    else:
        gradients = _backward(*arguments)
    d_e, d_c, d_tensors = _by_input(parse(ctx.spec), gradients)
    return d_e, d_c, None, d_tensors, no_numbers, None, None


def _by_input(
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
    """Whether nothing but the operators themselves has a say in any of them."""
    for tensor in tensors:  # noqa: SIM110: a generator costs more than what it does here
        if type(tensor) not in _PLAIN and tensor is not None:
            return False
    return True


def _is_eager() -> bool:
    """Nothing traces, transforms or intercepts operators."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
    )


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
    layout: _Layout
    #: Kept with what it left: no other plan ever reads that.
    plan: _native.Plan


class _Direct(torch.autograd.Function):
    """The operators without the dispatcher: for plain tensors in eager mode, where it would take most of a call's time
    on the host."""

    @staticmethod
    def forward(
        ctx: Any, call: _Plain, e: Tensor, c: Tensor, *tensors: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """The results, None for one that there is not; what a backward needs is kept in ``ctx``."""
        spec, text, numbers, targets, seed, main_grad = call
        kind = _kind(e, c, targets)
        layout = _layout(spec, e, c, targets, kind, None)
        plan = plan_for(spec, layout.plan)
        reduced, rows, held, drawn = _run_forward(spec, plan, layout, e, c, targets, tensors, numbers, seed)
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
        if torch.is_grad_enabled() or not are_plain(e, c, targets, held, seed, *tensors) or not _is_eager():
            if main_grad is not None:
                raise RuntimeError("`main_grad` is for plain backward passes, without `create_graph`")
            # The operator refuses to be differentiated, which plain code would not.
            gradients = torch.ops.cce_torch.backward.default(
                d_reduced, d_rows, e, c, targets, tensors, numbers, held, seed, list(was), text
            )
        else:
            kind = _kind(e, c, targets)
            if kind != was:
                layout = _layout(spec, e, c, targets, kind, was)
            gradients = _run_backward(
                spec, plan, layout, d_reduced, d_rows, e, c, targets, tensors, numbers, held, seed, main_grad
            )
        d_e, d_c, d_tensors = _by_input(spec, gradients)
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
    reduced, rows, _, _ = forward(e, c, targets, tensors, numbers, seed, spec)
    return reduced, rows
