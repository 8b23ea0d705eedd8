"""From a program and tensors to the operator: checks, types, shapes, filters. Every public function ends here."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Literal, NamedTuple, Union

import torch
from torch import Tensor

from . import _direct, _eager, _matrices, _options, _plans, _seeds
from ._constant import constant
from ._spec import Spec, describe
from ._values import Value

Reduction = Literal["mean", "sum", "none"]
FilterName = Literal["exact", "sampled"]
Scalar = Union[float, Tensor]

_AUTOCAST_DEVICES = ("cpu", "cuda")
_NO_NAMES: Mapping[str, str] = {}


class Options(NamedTuple):
    """What a call is given besides tensors, inputs and a seed: as it comes from users, to be checked once."""

    #: ``mean``, ``sum``, ``none`` or ``mean_by:NAME``; under ``none`` the loss is one of the rows.
    reduction: str
    #: Outputs that are wanted token by token.
    rows: tuple[str, ...]
    ignore_index: int
    shift: int | bool
    filter: FilterName | None
    filter_eps: float | None
    max_entries: int | None
    check_targets: bool


def run(
    program: str,
    e: Tensor,
    c: Tensor,
    targets: Tensor | None,
    inputs: Mapping[str, Scalar],
    options: Options,
    seed: int | Tensor | None,
    main_grad: Tensor | None = None,
    names: Mapping[str, str] = _NO_NAMES,
) -> dict[str, Tensor]:
    """The program's outputs by name: ``loss`` under the reduction, those in ``options.rows`` token by token.

    ``names`` are those by which the caller knows inputs of the program, where they are others.
    """
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            _check_tensor(names.get(name, name), value)
    if isinstance(seed, Tensor):
        _check_tensor("seed", seed)
    if main_grad is not None:
        _check_tensor("main_grad", main_grad)
    key = _key(program, e, c, targets, inputs, main_grad, options)
    known = _known.get(key) if key is not None else None
    if known is None:
        known = _decide(program, e, c, targets, inputs, main_grad, options)
        if key is not None and _PLAIN_OPTIONS.issuperset(map(type, options)):
            _known.put(key, known)
    shift, order = known.shift, known.order
    given_targets = targets
    if shift and targets is not None:
        targets = torch.nn.functional.pad(targets[..., shift:], (0, shift), value=known.ignore_index)
    tensors, numbers = _inputs(program, inputs, names, e, c, shift, order)
    if order is not None:
        e = e.permute(*order, -1)
        targets = None if targets is None else targets.permute(order)
    if main_grad is not None:
        _check_main_grad(main_grad, c, known.compute)
    seed = _options.seed(seed, e.device)
    if seed is None and known.may_sample and torch.compiler.is_compiling():
        # In a graph that is compiled the draw is an operation that torch knows to be random: the operator's own
        # would be shared by calls that are alike.
        seed = _seeds.draw(e.device)
    if options.check_targets and given_targets is not None and not torch.compiler.is_compiling():
        try:
            loss, values = _direct.call(e, c, targets, tensors, numbers, seed, known.spec, main_grad)
        except IndexError as error:
            raise _located(given_targets, shift, known.ignore_index, c.shape[0], error) from None
    else:
        loss, values = _direct.call(e, c, targets, tensors, numbers, seed, known.spec, main_grad)
    outputs: dict[str, Tensor] = {"loss": loss} if known.reduced else {}  # type: ignore[dict-item]
    rows = options.rows
    if not rows:
        return outputs
    each = (values,) if len(rows) == 1 else values.unbind(0)  # type: ignore[union-attr]
    for name, of_tokens in zip(rows, each, strict=True):
        of_tokens = of_tokens.view(e.shape[:-1])
        if order is not None:
            of_tokens = of_tokens.permute([order.index(at) for at in range(len(order))])
        if name not in _differentiable(program):
            of_tokens = of_tokens.detach()
        outputs[name] = of_tokens[..., : of_tokens.shape[-1] - shift] if shift else of_tokens
    return outputs


class _Decided(NamedTuple):
    """What follows from a call's options and from the kinds of its tensors: everything but addresses and values."""

    spec: str
    #: The type to multiply in.
    compute: torch.dtype
    ignore_index: int
    shift: int
    #: See :func:`_memory_order`.
    order: list[int] | None
    #: Whether the output ``loss`` is reduced.
    reduced: bool
    #: Whether a seed is wanted, where the plan agrees.
    may_sample: bool


class _Known:
    """Decisions by their calls' keys: calls that are alike are looked at once."""

    #: More are not kept: a process in which every call is another pays for none of them twice.
    CAPACITY = 4096

    def __init__(self) -> None:
        self._decided: dict[Hashable, _Decided] = {}

    def get(self, key: Hashable) -> _Decided | None:
        """The decision, if there is one."""
        try:
            return self._decided.get(key)
        except TypeError:
            # Of an option that has no hash, and is none of the plain ones.
            return None

    def put(self, key: Hashable, decided: _Decided) -> None:
        """Keeps it, and drops all others where there are too many."""
        if len(self._decided) >= self.CAPACITY:
            self._decided = {}
        self._decided[key] = decided


_known = _Known()


def _key(
    program: str,
    e: Tensor,
    c: Tensor,
    targets: Tensor | None,
    inputs: Mapping[str, Scalar],
    main_grad: Tensor | None,
    options: Options,
) -> Hashable | None:
    """Everything that :func:`_decide` looks at; None where that is not known to be all there is: in a graph that is
    compiled, of subclasses of tensors."""
    if torch.compiler.is_compiling() or not _eager.are_plain(e, c, targets):
        return None
    graph = torch.is_grad_enabled()
    device = "cuda" if e.is_cuda else "cpu"
    return (
        program,
        *(e.shape, e.stride(), e.dtype, e.device, graph and e.requires_grad),
        *(c.shape, c.dtype, c.device, graph and c.requires_grad),
        None if targets is None else (targets.shape, targets.dtype, targets.device),
        tuple(
            (name, graph and value.requires_grad if isinstance(value, Tensor) else None)
            for name, value in inputs.items()
        )
        if inputs
        else None,
        None if main_grad is None else main_grad.dtype,
        options,
        # Of other types two may be equal and mean something else: 1 is no flag, and True no index.
        *map(type, options),
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None,
        _plans.tuning,
    )


#: Types of options that say all that there is: decisions of calls with others are not kept. The last is the rows'.
_PLAIN_OPTIONS = frozenset((int, bool, float, str, type(None), tuple))


def _decide(
    program: str,
    e: Tensor,
    c: Tensor,
    targets: Tensor | None,
    inputs: Mapping[str, Scalar],
    main_grad: Tensor | None,
    options: Options,
) -> _Decided:
    """Checks what a call is given, apart from its inputs, and says what is to be computed."""
    reduction, rows = options.reduction, options.rows
    shift = _options.shift(options.shift)
    check_targets = _options.flag("check_targets", options.check_targets)
    ignore_index = _options.ignore_index(options.ignore_index)
    _check_tensor("e", e)
    _check_tensor("c", c)
    if targets is not None:
        _check_tensor("targets", targets)
    compute = _compute_type(e, c)
    _check_shapes(e, c, targets, shift)
    graph = torch.is_grad_enabled()
    tensors = [name for name, _ in _kinds(program) if isinstance(inputs.get(name), Tensor)]
    numbers = [name for name, _ in _kinds(program) if name in inputs and name not in tensors]
    learning = tuple(name for name in tensors if graph and inputs[name].requires_grad)  # type: ignore[union-attr]
    reduced = reduction != "none" and "loss" not in rows and _has(program, "loss")
    named_filter = _options.filter_text(options.filter, options.filter_eps, options.max_entries)
    wants_gradients = graph and (e.requires_grad or c.requires_grad or bool(learning))
    spec = _spec(
        program,
        _matrices.DTYPES[compute],
        reduction if reduced else "none",
        ignore_index if targets is not None else None,
        named_filter,
        tuple(tensors),
        tuple(numbers),
        graph and e.requires_grad,
        graph and c.requires_grad,
        learning,
        rows,
        reduced,
        None if main_grad is None else _matrices.DTYPES.get(main_grad.dtype),
        check_targets and targets is not None,
        _plans.tuning,
    )
    may_sample = named_filter != "exact" and wants_gradients
    return _Decided(spec, compute, ignore_index, shift, _memory_order(e), reduced, may_sample)


def _located(targets: Tensor, shift: int, ignore_index: int, vocab: int, error: IndexError) -> IndexError:
    """The error with the place of the target in the caller's tensor."""
    wrong = (targets != ignore_index) & ((targets < 0) | (targets >= vocab))
    if shift:
        # The first ones are not paired with hidden states.
        wrong[..., :shift] = False
    places = wrong.nonzero()
    if len(places) == 0:
        return error
    place = places[0].tolist()
    value = targets[tuple(place)].item()
    index = ", ".join(map(str, place))
    return IndexError(
        f"`targets[{index}]` is {value}, expected 0 to {vocab - 1}, or {ignore_index} where a token is ignored "
        f"({len(places)} of {targets.numel()} targets are out of range)"
    )


def _memory_order(e: Tensor) -> list[int] | None:
    """The leading dimensions as they lie in memory, outermost first; None where that is their order, or in a graph
    that is compiled, where nothing is to depend on strides."""
    strides = e.stride()[:-1]
    if len(strides) < 2 or torch.compiler.is_compiling():
        return None
    order = sorted(range(len(strides)), key=lambda at: -strides[at])
    return None if order == list(range(len(strides))) else order


def _check_main_grad(main_grad: Tensor, c: Tensor, compute: torch.dtype) -> None:
    if not c.requires_grad:
        raise ValueError("`main_grad` is given and `c` requires no gradient: leave it out, or let `c` require one")
    if main_grad.shape != c.shape or not main_grad.is_contiguous() or main_grad.device != c.device:
        raise ValueError(
            f"`main_grad` has shape {list(main_grad.shape)} and strides {list(main_grad.stride())} on "
            f"{main_grad.device}, expected {list(c.shape)}, contiguous, on {c.device}"
        )
    if main_grad.dtype not in (torch.float32, compute):
        own = "" if compute == torch.float32 else f" or {compute}"
        raise TypeError(f"`main_grad` is {main_grad.dtype}, expected torch.float32{own}")


@constant
def _has(program: str, output: str) -> bool:
    return output in dict(describe(program).outputs)


@constant
def _differentiable(program: str) -> tuple[str, ...]:
    return tuple(name for name, differentiable in describe(program).outputs if differentiable)


@constant
def _kinds(program: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, kind) for name, kind in describe(program).inputs if kind not in ("Logit", "Target"))


@constant
def _spec(*values: object) -> str:
    return Spec(*values).text()  # type: ignore[arg-type]


def _check_tensor(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        advice = _options.module_advice(tensor)
        if isinstance(tensor, Value):
            advice = ": inside of a loss write formulas of the language, such as `cce.lse(z) - cce.at(z, y)`"
        raise TypeError(f"expected a tensor for `{name}`, found {type(tensor).__name__}{advice}")
    if _is_sharded(tensor):
        raise ValueError(
            f"`{name}` is sharded over devices (a DTensor), expected a whole tensor: gather it first, with "
            f"`{name}.full_tensor()`, or by calling the loss inside of the forward of the FSDP module that owns it; "
            "a head sharded over the vocabulary is not supported"
        )
    if tensor.device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"`{name}` is on {tensor.device}, expected a tensor on cpu or cuda")


def _is_sharded(tensor: Tensor) -> bool:
    if type(tensor) in (Tensor, torch.nn.Parameter) or not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _compute_type(e: Tensor, c: Tensor) -> torch.dtype:
    """The type to multiply in: autocast's, or that of both."""
    device = e.device.type
    if device in _AUTOCAST_DEVICES and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        if e.dtype in _matrices.DTYPES and c.dtype in _matrices.DTYPES and dtype in _matrices.DTYPES:
            return dtype
    for name, tensor in (("e", e), ("c", c)):
        if tensor.dtype not in _matrices.DTYPES:
            raise TypeError(f"`{name}` is {tensor.dtype}, expected torch.float32, torch.float16 or torch.bfloat16")
    if e.dtype != c.dtype:
        raise TypeError(
            f"`e` is {e.dtype} and `c` is {c.dtype}, expected one type: convert one of them, or use torch.autocast"
        )
    return e.dtype


def _check_shapes(e: Tensor, c: Tensor, targets: Tensor | None, shift: int) -> None:
    if e.dim() < 1 or c.dim() != 2 or e.shape[-1] != c.shape[1]:
        raise ValueError(
            f"`e` has shape {list(e.shape)} and `c` {list(c.shape)}, expected [..., D] and [V, D] with the same D"
        )
    if e.device != c.device:
        raise ValueError(f"`e` is on {e.device} and `c` on {c.device}, expected one device")
    if e.device.type not in ("cpu", "cuda"):
        raise ValueError(f"`e` is on {e.device}, expected cpu or cuda")
    if shift < 0 or (shift and (e.dim() < 2 or e.shape[-2] < shift)):
        raise ValueError(
            f"`shift` is {shift}, expected a number from 0 to the length of the sequence, which is "
            f"{e.shape[-2] if e.dim() > 1 else 'missing: `e` has no dimension for it'}"
        )
    if targets is None:
        if shift:
            raise ValueError("`shift` pairs hidden states with later targets, and there are none: leave it out")
        return
    if targets.dtype not in _matrices.INDICES:
        raise TypeError(f"`targets` is {targets.dtype}, expected torch.int64 or torch.int32")
    if targets.device != e.device:
        raise ValueError(f"`targets` is on {targets.device} and `e` on {e.device}, expected one device")
    if targets.shape != e.shape[:-1]:
        raise ValueError(
            f"`targets` has shape {list(targets.shape)}, expected {list(e.shape[:-1])}, that of `e` without its last "
            "dimension" + (" (unshifted: the shift is applied here)" if shift else "")
        )


def check_inputs(program: str, given: Iterable[str]) -> None:
    """Refuses a name that none of the program's Row, Col and Scalar inputs has."""
    known = [name for name, _ in _kinds(program)]
    for name in given:
        if name not in known:
            raise TypeError(f"there is no input `{name}`, expected {', '.join(known) if known else 'none'}")


def _inputs(
    program: str,
    given: Mapping[str, Scalar],
    names: Mapping[str, str],
    e: Tensor,
    c: Tensor,
    shift: int,
    order: list[int] | None,
) -> tuple[list[Tensor], list[float]]:
    """The program's Row, Col and Scalar inputs, in its order: f32 tensors, and numbers."""
    tensors: list[Tensor] = []
    numbers: list[float] = []
    kinds = _kinds(program)
    check_inputs(program, given)
    for name, kind in kinds:
        if name not in given:
            raise TypeError(f"the {kind} input `{name}` is missing, expected it by name: `{name}=...`")
        value, shown = given[name], names.get(name, name)
        if not isinstance(value, Tensor):
            if kind != "Scalar":
                raise TypeError(f"the {kind} input `{shown}` is {_options.found(value)}, expected a tensor")
            numbers.append(_options.scalar(shown, value))
            continue
        if value.device != e.device:
            raise ValueError(f"`{shown}` is on {value.device} and `e` on {e.device}, expected one device")
        tensors.append(_vector(shown, kind, value, e, c, shift, order))
    return tensors, numbers


def _vector(name: str, kind: str, value: Tensor, e: Tensor, c: Tensor, shift: int, order: list[int] | None) -> Tensor:
    if value.is_complex():
        raise TypeError(f"the {kind} input `{name}` is {value.dtype}, expected real numbers")
    if not value.is_floating_point():
        value = value.to(torch.float32)
    tokens = e.shape[:-1]
    if kind == "Row":
        paired = (*tokens[:-1], tokens[-1] - shift) if shift else tokens
        if value.shape != paired:
            raise ValueError(f"the Row input `{name}` has shape {list(value.shape)}, expected {list(paired)}")
        if shift:
            value = torch.nn.functional.pad(value, (0, shift))
        if order is not None:
            value = value.permute(order)
    elif kind == "Col" and value.shape != c.shape[:1]:
        raise ValueError(
            f"the Col input `{name}` has shape {list(value.shape)}, expected [{c.shape[0]}], one a row of `c`"
        )
    elif kind == "Scalar":
        _options.one_element(name, value)
    return value.to(torch.float32).reshape(-1)
