"""From tensors to plans."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
from functools import cache
from pathlib import Path

import torch

from . import _log, _matrices, _native
from ._spec import Spec, describe


def plan_for(
    spec: Spec,
    e: torch.Tensor,
    c: torch.Tensor,
    targets: torch.Tensor | None,
    given: tuple[torch.dtype, torch.dtype],
    layouts: tuple[tuple[int, int], tuple[int, int]],
) -> _native.Plan:
    """The plan of a call on matrices that ``as_rows`` gave; ``given`` are the types they had before it."""
    index = torch.int32 if targets is None else targets.dtype
    key = (e.shape[0], e.shape[1], c.shape[0], index, given, layouts, e.device.type, e.device.index)
    found = spec.plans.get(key)
    if found is not None:
        return found
    if e.device.type == "cuda":
        load_nvrtc()

    def gradient(wanted: bool, dtype: torch.dtype) -> tuple[str, bool] | None:
        # In the type that the tensor has, if that is the one computed in; else in f32, to be rounded once.
        return (spec.compute if _matrices.DTYPES[dtype] == spec.compute else "f32", False) if wanted else None

    d_c = gradient(spec.gradient_c, given[1])
    if d_c is not None and spec.main_grad is not None:
        d_c = (spec.main_grad, True)
    plan = _native.plan(
        spec.program,
        (int(e.shape[0]), int(e.shape[1]), int(c.shape[0])),
        spec.compute,
        _matrices.INDICES[index],
        spec.ignore_index,
        spec.filter,
        (gradient(spec.gradient_e, given[0]), d_c),
        list(spec.gradient_inputs),
        layouts,
        _ordinal(e.device),
    )
    _say(spec, plan)
    spec.plans[key] = plan
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
            logging.INFO, f"{name} on {plan.device}: the schedule's grade is {plan.grade}; cce-tune finds a better one"
        )


@cache
def load_nvrtc() -> None:
    """Loads the NVRTC that torch's own packages brought, so that the native side finds it by name.

    Nothing is done where CCE_NVRTC_PATH says which one to take, or where no such package is installed: the native
    side then looks where its documentation says.
    """
    if os.environ.get("CCE_NVRTC_PATH"):
        return
    # Packages of another CUDA may lie beside those that torch was built for.
    folders = [Path("cu13", "lib"), Path("cuda_nvrtc", "lib")]
    if (torch.version.cuda or "").split(".")[0] == "12":
        folders.reverse()
    found = importlib.util.find_spec("nvidia")
    for root in (found.submodule_search_locations or []) if found else []:
        for folder in folders:
            for library in sorted(Path(root, folder).glob("libnvrtc.so.*"), reverse=True):
                ctypes.CDLL(str(library))
                return
