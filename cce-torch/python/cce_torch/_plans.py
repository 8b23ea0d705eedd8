"""From tensors to plans, of which those used last are kept.

Every number of tokens makes a plan. :data:`kept` holds as many as ``CCE_TORCH_PLANS`` says; a call whose backward is
still to come holds its own. A plan that was dropped is made again, the same, when a call needs it; see the native side.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
from collections import OrderedDict
from collections.abc import Hashable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import torch

from . import _log, _matrices, _native
from ._spec import Spec, describe

#: How many plans are kept where CCE_TORCH_PLANS says nothing.
CAPACITY = 256


class Kept:
    """The plans used last, at most ``capacity``."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._plans: OrderedDict[Hashable, _native.Plan] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> _native.Plan | None:
        """The plan of this key, used just now."""
        with self._lock:
            plan = self._plans.get(key)
            if plan is not None:
                self._plans.move_to_end(key)
            return plan

    def put(self, key: Hashable, plan: _native.Plan) -> None:
        """Keeps a plan, and drops those that were not used for longest."""
        with self._lock:
            self._plans[key] = plan
            self._plans.move_to_end(key)
            # They go when nothing is locked: what their memory's release runs may be anything.
            dropped = [self._plans.popitem(last=False) for _ in range(len(self._plans) - self.capacity)]
        del dropped

    def clear(self) -> None:
        """Keeps none."""
        with self._lock:
            dropped, self._plans = self._plans, OrderedDict()
        del dropped

    def __len__(self) -> int:
        return len(self._plans)


def _capacity() -> int:
    text = os.environ.get("CCE_TORCH_PLANS", "")
    if not text:
        return CAPACITY
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"CCE_TORCH_PLANS is {text!r}, expected how many plans are kept, a whole number of at least 1")
    return int(text)


kept = Kept(_capacity())

#: Names what plans choose their schedules from. A part of every call's spec: after another tuning plans are others.
tuning: str = _native.tuning_state()


def refresh_tuning() -> None:
    """Plans of later calls choose among what is stored now. A compiled graph is compiled again when it is next called;
    a backward whose forward is past runs that forward's plan."""
    global tuning
    tuning = _native.tuning_state()
    kept.clear()


class PlanKey(NamedTuple):
    """What a plan is made from."""

    #: A spec's identity is its own: each is made once, and lives as long as the process.
    spec: int
    tokens: int
    hidden: int
    vocab: int
    #: The type of the targets.
    targets: torch.dtype
    #: The types that E and C had before ``as_rows``.
    given: tuple[torch.dtype, torch.dtype]
    layouts: tuple[tuple[int, int], tuple[int, int]]
    #: A GPU's ordinal; None for the CPU device.
    device: int | None


def plan_key(
    spec: Spec,
    e: torch.Tensor,
    c: torch.Tensor,
    targets: torch.dtype | None,
    given: tuple[torch.dtype, torch.dtype],
    layouts: tuple[tuple[int, int], tuple[int, int]],
) -> PlanKey:
    """The key of a call on matrices that ``as_rows`` gave; ``given`` are the types they had before it,
    ``targets`` is that of the targets."""
    (tokens, hidden), vocab = e.shape, c.shape[0]
    return PlanKey(
        id(spec), int(tokens), int(hidden), int(vocab), targets or torch.int32, given, layouts, _ordinal(e.device)
    )


def plan_for(spec: Spec, key: PlanKey) -> _native.Plan:
    """The plan of a call, made if it is not kept."""
    found = kept.get(key)
    if found is not None:
        return found
    if key.device is not None:
        load_nvrtc()

    def gradient(wanted: bool, dtype: torch.dtype) -> tuple[str, bool] | None:
        # In the type that the tensor has, if that is the one computed in; else in f32, to be rounded once.
        return (spec.compute if _matrices.DTYPES[dtype] == spec.compute else "f32", False) if wanted else None

    d_c = gradient(spec.gradient_c, key.given[1])
    if d_c is not None and spec.main_grad is not None:
        d_c = (spec.main_grad, True)
    plan = _native.plan(
        spec.program,
        spec.tuning,
        (key.tokens, key.hidden, key.vocab),
        spec.compute,
        _matrices.INDICES[key.targets],
        spec.ignore_index,
        spec.filter,
        (gradient(spec.gradient_e, key.given[0]), d_c),
        list(spec.gradient_inputs),
        key.layouts,
        key.device,
    )
    _say(spec, plan)
    kept.put(key, plan)
    return plan


def _ordinal(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index


def _say(spec: Spec, plan: _native.Plan) -> None:
    name = describe(spec.program).name
    if spec.wants_gradients:
        for note in plan.notes:
            _log.once(logging.INFO, f"{name}: {note}")
    # On a GPU a tuned schedule makes a difference.
    if plan.grade != "exact" and plan.device != "cpu":
        _log.once(
            logging.INFO,
            f"{name} on {plan.device}: the schedule's grade is {plan.grade}, for it was not tuned for this problem; "
            "`cce_torch.tune` with the call's arguments finds the best one",
        )


@cache
def load_nvrtc() -> None:
    """Loads the NVRTC that torch's own packages brought, so that the native side finds it by name."""
    library = nvrtc()
    if library is not None:
        ctypes.CDLL(library)


def nvrtc() -> str | None:
    """The NVRTC that torch's own packages brought.

    None where CCE_NVRTC_PATH says which one to take, or where no such package is installed: the native side then looks
    where its documentation says.
    """
    if os.environ.get("CCE_NVRTC_PATH"):
        return None
    # Packages of another CUDA may lie beside those that torch was built for.
    folders = [Path("cu13", "lib"), Path("cuda_nvrtc", "lib")]
    if (torch.version.cuda or "").split(".")[0] == "12":
        folders.reverse()
    found = importlib.util.find_spec("nvidia")
    for root in (found.submodule_search_locations or []) if found else []:
        for folder in folders:
            for library in sorted(Path(root, folder).glob("libnvrtc.so.*"), reverse=True):
                return str(library)
    return None
