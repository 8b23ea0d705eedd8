"""The tuner: :func:`tune` finds the fastest schedule for the problem of a call."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

import torch
from torch import Tensor

from . import _linear, _matrices, _native, _options, _plans
from ._call import FilterName, check_inputs
from ._spec import describe
from .functional import NAMES, linear_cross_entropy, program_inputs, token_logprobs
from .losses import Loss

#: A tensor, or the shape of one.
Shaped = Union[Tensor, Sequence[int]]
#: Called with steps done, steps ahead in all, and lines that are new.
Progress = Callable[[int, int, list[str]], object]

#: Candidates that a report prints.
_SHOWN = 12
#: Seconds between two lines where there is no terminal.
_PAUSE = 5.0


@dataclass(frozen=True)
class Candidate:
    """One schedule that was looked at."""

    #: In a few words.
    schedule: str
    #: Whether it is the default schedule, which calls use where nothing is tuned.
    is_default: bool
    #: ``ok``, or how it ended: ``constraint``, ``resources``, ``compile``, ``wrong``, ...
    status: str
    #: Milliseconds, on a GPU on the device: the winner's median over its last timed runs; of others their time
    #: relative to the winner's, times that.
    ms: float | None
    #: The interquartile range of its runs on that scale, in milliseconds.
    spread_ms: float | None
    #: The worst relative error of a gradient against an exact reference: rounding, or the filter's noise.
    gradient_error: float | None
    #: How many runs were timed.
    runs: int
    #: Why it is not the best; empty for the winner.
    reason: str


@dataclass(frozen=True)
class TuneReport:
    """What :func:`tune` found. Printed, it is a table."""

    #: What was tuned: the loss, shape, type, gradients and device.
    problem: str
    #: The device's name.
    device: str
    #: The filter of the problem's plans: ``exact``, ``sampled:2^-10,384``.
    filter: str
    #: Every candidate that was tried: the best, then the others by their times, of which one that ties with the best
    #: may be a little faster; then those that could not run, and what breaks a constraint.
    candidates: tuple[Candidate, ...]
    #: How well the schedule fits that a call of this problem now finds: ``exact`` where it is the winner.
    grade: str
    #: Trials that were stored before.
    reused: int
    #: How many candidates there were to choose from.
    searched: int
    #: What calls take instead of the winner, and why: of a measurement before this one, for example.
    in_use: str | None
    #: Whether everything was measured anew.
    again: bool
    #: Whether nothing is left that is worth a trial; otherwise the time was spent, and the same call goes on.
    complete: bool
    #: How many candidates near the best the time left uncompared.
    undecided: int
    #: The values that the loss's Scalar inputs had.
    scalars: dict[str, float]
    #: What is worth knowing besides.
    notes: tuple[str, ...]
    #: The folder of the tuning database.
    folder: str
    #: How long it took.
    seconds: float = field(compare=False)

    @property
    def winner(self) -> Candidate | None:
        """The fastest candidate whose results were right; None where none could run."""
        return next((one for one in self.candidates[:1] if one.ms is not None), None)

    @property
    def default(self) -> Candidate | None:
        """The default schedule; None where it was not tried or could not run."""
        return next((one for one in self.candidates if one.is_default and one.ms is not None), None)

    def __str__(self) -> str:
        lines = [f"{self.problem}, filter {self.filter}, on {self.device}"]
        if self.scalars:
            lines.append("with " + ", ".join(f"{name} = {value:g}" for name, value in self.scalars.items()))
        head = ("", "ms", "spread", "error", "schedule", "why it is not the best")
        rows = [head, *(self._row(at, one) for at, one in enumerate(self.candidates[:_SHOWN]))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines.append("")
        for row in rows:
            numbers = [cell.rjust(width) for cell, width in zip(row[:4], widths[:4], strict=True)]
            lines.append("  ".join([*numbers, row[4].ljust(widths[4]), row[5]]).rstrip())
        if len(self.candidates) > _SHOWN:
            lines.append(f"... and {len(self.candidates) - _SHOWN} more in `.candidates`")
        lines.append("")
        tried = sum(one.status != "constraint" for one in self.candidates)
        lines.append(
            f"{tried} of {self.searched} candidates tried, {min(self.reused, tried)} stored before; {self.seconds:.1f} s"
        )
        lines.append(self._ending())
        return "\n".join([*lines, *self.notes])

    def _ending(self) -> str:
        winner, default = self.winner, self.default
        if winner is None:
            return "no winner: no candidate could run and was right; the reasons are above"
        until = ""
        if not self.complete:
            left = f" in the run-off, {self.undecided} near the best not compared to the end" if self.undecided else ""
            again = "without again=True" if self.again else "again"
            until = f"the time is spent{left}, call it {again} to go on; until then the "
        beside = ""
        if winner.is_default:
            beside = ", the default"
        elif default is not None:
            beside = f", {winner.ms / default.ms:.3f} of the default's time"  # type: ignore[operator]
        return (
            f"{until}winner: {winner.schedule} ({winner.ms:.3f} ms{beside}); calls of this problem "
            f"{f'use {self.in_use}' if self.in_use else 'now use it'} (grade {self.grade})"
        )

    @staticmethod
    def _row(at: int, one: Candidate) -> tuple[str, ...]:
        spread = ""
        if one.ms and one.spread_ms is not None:
            spread = "-" if one.runs < 2 else f"{100 * one.spread_ms / one.ms:.1f} %"
        return (
            str(at + 1),
            "-" if one.ms is None else f"{one.ms:.3f}",
            spread,
            "" if one.gradient_error is None else f"{one.gradient_error:.1e}",
            f"{one.schedule} (the default)" if one.is_default else one.schedule,
            one.reason if one.status == "ok" else f"{one.status}: {one.reason}",
        )


def tune(
    e: Shaped,
    c: Shaped,
    targets: Tensor | None = None,
    *,
    loss: Loss | Callable[..., Any] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | int | None = None,
    gradients: Iterable[str] | None = None,
    filter: FilterName | None = None,
    filter_eps: float | None = None,
    max_entries: int | None = None,
    candidates: int | None = None,
    budget: float | None = 60.0,
    again: bool = False,
    untrained: bool = False,
    progress: bool | Progress = True,
    **inputs: Any,
) -> TuneReport:
    """Finds the fastest schedule for the problem of a call, and stores it: later calls use it, in any process.

    Give what the call is given. Of tensors only shapes, types, device, and whether they require a gradient matter;
    shapes do as well::

        cce.tune(hidden, model.lm_head.weight, softcap=30.0)
        cce.tune((8192, 2304), (256000, 2304), dtype=torch.bfloat16, device="cuda")
        cce.tune(hidden, weight, loss=my_loss, cap=50.0)

    A result holds for the loss, D, V, N rounded to a power of two, the type, the gradients, the filter and the device.
    Inputs are generated, with a softmax like a trained model's. Results are stored batch by batch: after Ctrl-C,
    which ends it after the run at hand (twice: at once) and is raised as KeyboardInterrupt, the same call goes on.
    Schedules are measured in processes of their own: one that hangs or crashes is a candidate that failed.

    Plans of this process that are made later find the winner, and those of before are dropped; a compiled graph is
    compiled again at its next call; a CUDA graph replays what it captured.

    Args:
        e: hidden states [..., D], or their shape. N is the product of the leading sizes, ``shift`` does not change it.
        c: the head's weight [V, D], or its shape.
        targets: leave them out; taken so that a call's arguments can be passed on.
        loss: a loss made by ``@cce.loss``, or :func:`cce_torch.token_logprobs`; None is
            :func:`cce_torch.linear_cross_entropy`, which may be given too.
        dtype: the type in which is multiplied; by default e's type or autocast's, and of shapes bfloat16 on a GPU and
            float32 on the CPU.
        device: of shapes; by default the current GPU, else the CPU.
        gradients: names of what requires a gradient: ``e``, ``c``, and inputs (``"bias"``). By default the tensors that
            do, and of shapes ``e`` and ``c``.
        filter, filter_eps, max_entries: the filter of the call, as there.
        candidates: tries no more than so many schedules; by default as many as the search thinks worth it.
        budget: seconds that it may take, inputs and reference included; the same call goes on from there. None: until
            nothing is left that is worth a trial.
        again: measures anew. Once that has a whole run-off, what this machine measured before of the problem at this
            shape does not count any more; a call without it goes on with that.
        untrained: generates inputs with a softmax close to uniform, like a model's before its training.
        progress: True shows a bar on a terminal, and elsewhere a line every five seconds on ``sys.stderr``; False is
            silent; a function is called with (steps done, steps in all, new lines), when something
            changed and at least every second.
        **inputs: the loss's own options or inputs, as in the call: ``softcap=30.0``, ``bias=bias``. In the place of a
            tensor True will do.

    Returns:
        The ranking, the winner and the grade. ``print`` shows a table.

    Raises:
        TypeError, ValueError: what does not fit, with what was expected.
        RuntimeError: the device or the database failed, or no process could be started to measure in.
    """
    where = _device(e, c, device)
    # What options are called that the program knows under another name: a loss of the caller's has its own names.
    shown = {} if isinstance(loss, Loss) else NAMES
    program, given = _program(loss, inputs)
    scalars = _scalars(program, given, shown)
    compute = _dtype(e, c, dtype, where)
    shape = _shape(e, c)
    names = _gradients(e, c, program, gradients, given, shown)
    text = _options.filter_text(filter, filter_eps, max_entries)
    if candidates is not None:
        candidates = _options.whole("candidates", candidates, 1, 2**31 - 1)
    budget = _options.seconds("budget", budget)
    for name, value in (("again", again), ("untrained", untrained)):
        _options.flag(name, value)
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(f"`progress` is {_options.found(progress)}, expected True, False or a function")
    ordinal = None
    if where.type == "cuda":
        ordinal = torch.cuda.current_device() if where.index is None else where.index
        _plans.load_nvrtc()
        # The tuner's memory comes from the driver: what torch keeps and does not use is in its way.
        torch.cuda.synchronize(ordinal)
        torch.cuda.empty_cache()
    has_target = any(kind == "Target" for _, kind in describe(program).inputs)
    begun = time.monotonic()
    try:
        tuned = _native.tune(
            program,
            shape,
            compute,
            has_target,
            text,
            ("e" in names, "c" in names),
            [name for name in names if name not in ("e", "c")],
            ordinal,
            scalars,
            candidates,
            budget,
            again,
            untrained,
            _callback(progress),
            progress is False,
            _worker(where),
        )
    finally:
        # What was stored counts, however it ended.
        _plans.refresh_tuning()
    return TuneReport(
        problem=_problem(program, shape, compute, [shown.get(name, name) for name in names]),
        device=tuned.device,
        filter=tuned.filter,
        candidates=tuple(Candidate(**one) for one in tuned.candidates),
        grade=tuned.grade,
        reused=tuned.reused,
        searched=tuned.searched,
        in_use=tuned.in_use,
        again=again,
        complete=tuned.complete,
        undecided=tuned.undecided,
        scalars={shown.get(name, name): value for name, value in tuned.scalars},
        notes=tuple(tuned.notes),
        folder=tuned.folder,
        seconds=time.monotonic() - begun,
    )


def _sizes(name: str, of: Any, least: int, shape: str) -> tuple[int, ...]:
    if isinstance(of, Tensor):
        sizes = tuple(of.shape)
    else:
        if isinstance(of, (str, bytes)) or not isinstance(of, Sequence):
            raise TypeError(
                f"`{name}` is {_options.found(of)}, expected a tensor {shape} or its shape{_options.module_advice(of)}"
            )
        sizes = tuple(_options.whole(f"{name}[{at}]", size, 0, 2**28) for at, size in enumerate(of))
    if len(sizes) < least:
        raise ValueError(f"`{name}` has shape {list(sizes)}, expected {shape}")
    return sizes


def _shape(e: Shaped, c: Shaped) -> tuple[int, int, int]:
    hidden, classifier = _sizes("e", e, 2, "[..., D]"), _sizes("c", c, 2, "[V, D]")
    if len(classifier) != 2 or hidden[-1] != classifier[1]:
        raise ValueError(
            f"`e` has shape {list(hidden)} and `c` {list(classifier)}, expected [..., D] and [V, D] with the same D"
        )
    tokens = 1
    for size in hidden[:-1]:
        tokens *= size
    if tokens == 0:
        raise ValueError(f"`e` has shape {list(hidden)}, expected at least one token: there is nothing to measure")
    return tokens, classifier[1], classifier[0]


def _device(e: Shaped, c: Shaped, device: torch.device | str | int | None) -> torch.device:
    own = {of.device for of in (e, c) if isinstance(of, Tensor)}
    if len(own) > 1:
        raise ValueError(f"`e` and `c` are on {' and '.join(sorted(map(str, own)))}, expected one device")
    if own:
        (found,) = own
        if device is not None and torch.device(device).type != found.type:
            raise ValueError(f"`device` is {device} and the tensors are on {found}: leave it out")
    elif device is not None:
        found = torch.device(device)
    else:
        found = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"`device` is {found}, expected cpu or cuda")
    return found


def _dtype(e: Shaped, c: Shaped, dtype: torch.dtype | None, device: torch.device) -> str:
    if dtype is None:
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        elif isinstance(e, Tensor):
            dtype = e.dtype
        elif isinstance(c, Tensor):
            dtype = c.dtype
        else:
            dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in _matrices.DTYPES:
        raise TypeError(f"`dtype` is {dtype!r}, expected torch.float32, torch.float16 or torch.bfloat16")
    return _matrices.DTYPES[dtype]


def _program(loss: Loss | Callable[..., Any] | None, inputs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The program of the call, and its Row, Col and Scalar inputs that were given."""
    # What a call has and the problem does not depend on.
    for name in ("reduction", "ignore_index", "shift", "seed", "main_grad", "check_targets"):
        inputs.pop(name, None)
    if isinstance(loss, Loss):
        given = {**loss.defaults, **inputs}
        program = loss.program
        check_inputs(program, inputs)
    elif loss is None or loss is linear_cross_entropy or loss is token_logprobs:
        allowed = {"bias", "softcap", "logit_scale"}
        allowed |= {"entropy"} if loss is token_logprobs else {"weight", "label_smoothing", "z_loss", "return_lse"}
        for name in inputs:
            if name not in allowed:
                raise TypeError(f"there is no option `{name}`, expected {', '.join(sorted(allowed))}")
        rest = dict(inputs)
        flags = {name: _options.flag(name, rest.pop(name)) for name in ("entropy", "return_lse") if name in rest}
        # A tensor is stood for by one of its kind.
        vectors = {name: torch.empty(0) if rest.get(name) is True else rest.get(name) for name in ("bias", "weight")}
        given = program_inputs(
            vectors["bias"],
            vectors["weight"],
            rest.get("logit_scale"),
            rest.get("softcap"),
            rest.get("label_smoothing", 0.0),
            rest.get("z_loss", 0.0),
        )
        if loss is not token_logprobs:
            program = _linear.cross_entropy(tuple(given), flags.get("return_lse", False))
        else:
            program = _linear.token_logprobs(tuple(given), flags.get("entropy", True))
    else:
        raise TypeError(
            f"`loss` is {_options.found(loss)}, expected None, a loss made by `cce.loss`, or `cce.token_logprobs`; "
            "write `@cce.loss` above a function of your own"
        )
    return program, given


def _scalars(program: str, given: dict[str, Any], shown: Mapping[str, str]) -> list[tuple[str, float]]:
    """The values of the Scalar inputs that have one."""
    scalars = []
    for name, kind in describe(program).inputs:
        value = given.get(name)
        if kind != "Scalar" or value is None or value is True:
            continue
        own = shown.get(name, name)
        if isinstance(value, Tensor):
            _options.one_element(own, value)
            value = value.detach().item()
        scalars.append((name, _options.scalar(own, value)))
    return scalars


def _gradients(
    e: Shaped,
    c: Shaped,
    program: str,
    asked: Iterable[str] | None,
    given: dict[str, Any],
    shown: Mapping[str, str],
) -> list[str]:
    """What requires a gradient: ``e``, ``c``, and inputs of the program by its names."""
    values = [name for name, kind in describe(program).inputs if kind not in ("Logit", "Target")]
    if asked is None:
        if isinstance(e, Tensor) or isinstance(c, Tensor):
            large = [name for name, of in (("e", e), ("c", c)) if not isinstance(of, Tensor) or of.requires_grad]
        else:
            large = ["e", "c"]
        learn = [n for n in values if isinstance(given.get(n), Tensor) and given[n].requires_grad]
        return [*large, *learn]
    if isinstance(asked, str):
        raise TypeError(f"`gradients` is {asked!r}, expected several names, such as ('e', 'c')")
    own = {shown.get(name, name): name for name in values}
    names = []
    for name in asked:
        if name in ("e", "c"):
            names.append(name)
        elif name in own:
            names.append(own[name])
        else:
            raise ValueError(f"`gradients` has {name!r}, expected any of {', '.join(['e', 'c', *own])}")
    return list(dict.fromkeys(names))


def _worker(device: torch.device) -> tuple[str, list[str]]:
    """The program that candidates run in, and its arguments: this interpreter, without torch."""
    if not sys.executable:
        raise RuntimeError(
            "`sys.executable` is empty, expected the program of this interpreter: schedules are measured in processes "
            "of their own; call `tune` in a Python that was started as a program"
        )
    library = _plans.nvrtc() if device.type == "cuda" else None
    # -S: what start-up files of the installation print or import is no business of a worker.
    script = Path(__file__).with_name("_worker.py")
    return sys.executable, ["-S", str(script), _native.__file__, *([library] if library else [])]


def _problem(program: str, shape: tuple[int, int, int], dtype: str, names: list[str]) -> str:
    tokens, hidden, vocab = shape
    gradients = f"loss and gradients of {', '.join(names)}" if names else "loss"
    return f"{describe(program).name}, {tokens} x {hidden} x {vocab} {dtype}, {gradients}"


def _callback(progress: bool | Progress) -> Progress | None:
    """None where the native side shows its own bar, or is silent."""
    if not isinstance(progress, bool):
        return progress
    if not progress or sys.stderr is None or _is_terminal():
        return None
    last = time.monotonic()

    def lines(done: int, total: int, texts: list[str]) -> None:
        nonlocal last
        for text in texts:
            print(text, file=sys.stderr)
        if time.monotonic() - last >= _PAUSE:
            last = time.monotonic()
            print(f"{done} of {total} steps", file=sys.stderr)

    return lines


def _is_terminal() -> bool:
    """Whether sys.stderr is the terminal that the native side writes to."""
    try:
        return sys.stderr.isatty() and sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):
        return False
