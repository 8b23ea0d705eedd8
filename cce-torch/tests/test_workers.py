"""The processes that Python's tuner measures in: whatever a candidate does, it costs that candidate only."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import cce_torch as cce
import pytest
import torch
from cce_torch import _plans, tuning

SHAPES = ((48, 24), (3000, 24))
OPTIONS = {"device": "cpu", "dtype": torch.float32, "filter": "exact", "progress": False}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A database of the test's own."""
    monkeypatch.setenv("CCE_TUNING_DIR", str(tmp_path / "tuning"))
    _plans.refresh_tuning()
    yield tmp_path
    monkeypatch.undo()
    _plans.refresh_tuning()


def misbehaving(monkeypatch, folder, rules):
    """From now on the tuner's workers follow these rules; the file of their starts."""
    starts = folder / "starts"
    own = tuning._worker

    def worker(device):
        program, arguments = own(device)
        script = Path(__file__).with_name("misbehaving_worker.py")
        return sys.executable, [str(script), json.dumps({**rules, "starts": str(starts)}), program, *arguments]

    monkeypatch.setattr(tuning, "_worker", worker)
    return starts


def is_running(pid):
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_whatever_a_candidate_does_costs_that_candidate_only(monkeypatch, folder):
    schedules = [one.schedule for one in cce.tune(*SHAPES, candidates=6, **OPTIONS).candidates]
    hows = {
        "hangs": ("timeout", "the check took longer than"),
        "aborts": ("crashed", "SIGABRT"),
        "is killed": ("crashed", "SIGKILL"),
        "exits": ("crashed", "exit status: 7"),
        "corrupts the pipe": ("crashed", "no message"),
    }
    assert len(schedules) == 6
    rules = dict(zip(schedules[:5], hows))
    starts = misbehaving(monkeypatch, folder, rules)
    report = cce.tune(*SHAPES, candidates=12, again=True, **OPTIONS)
    failed = [one for one in report.candidates if one.schedule in rules]
    for one in failed:
        status, reason = hows[rules[one.schedule]]
        assert (one.status, one.ms) == (status, None) and reason in one.reason, one
    assert len(failed) >= 3, report
    assert report.winner is not None and report.winner.schedule not in rules
    # One start for each that its worker did not survive, and the first.
    pids = [int(line) for line in starts.read_text().split()]
    assert len(pids) == len(failed) + 1
    assert not any(map(is_running, pids))


def children(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def test_a_worker_does_not_outlive_a_caller_that_is_killed():
    shapes = "(2048, 256), (50000, 256)"
    program = f"import cce_torch as cce; cce.tune({shapes}, device='cpu', filter='exact', progress=False)"
    caller = subprocess.Popen([sys.executable, "-c", program])
    begun = time.monotonic()
    while not (workers := children(caller.pid)):
        assert caller.poll() is None and time.monotonic() - begun < 60
        time.sleep(0.02)
    # It makes the inputs, or measures.
    time.sleep(0.5)
    assert all(map(is_running, workers))
    caller.kill()
    caller.wait()
    begun = time.monotonic()
    while any(map(is_running, workers)):
        assert time.monotonic() - begun < 10
        time.sleep(0.02)


def test_what_start_up_files_print_is_no_message_and_torch_is_not_loaded(monkeypatch, folder):
    (folder / "sitecustomize.py").write_text("print('the result is 42', flush=True)\n")
    (folder / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    assert cce.tune(*SHAPES, candidates=2, **OPTIONS).winner is not None


def test_without_a_worker_nothing_is_tuned_and_nobody_is_blamed(monkeypatch, folder):
    monkeypatch.setattr(tuning, "_worker", lambda device: ("/no/such/program", []))
    with pytest.raises(RuntimeError, match="cannot start the worker /no/such/program"):
        cce.tune(*SHAPES, candidates=2, **OPTIONS)
    monkeypatch.setattr(tuning, "_worker", lambda device: (sys.executable, ["-c", "print('hello')"]))
    with pytest.raises(RuntimeError, match="no worker could make inputs and reference, .* the worker wrote"):
        cce.tune(*SHAPES, candidates=2, **OPTIONS)
    monkeypatch.undo()
    monkeypatch.setenv("CCE_TUNING_DIR", str(folder / "tuning"))
    monkeypatch.setattr(sys, "executable", None)
    with pytest.raises(RuntimeError, match="`sys.executable` is empty"):
        cce.tune(*SHAPES, candidates=2, **OPTIONS)
    monkeypatch.undo()
    monkeypatch.setenv("CCE_TUNING_DIR", str(folder / "tuning"))
    # No trial was stored for it.
    assert cce.tune(*SHAPES, candidates=2, **OPTIONS).reused == 0


def test_inputs_without_a_finite_loss_are_the_caller_s_mistake():
    with pytest.raises(ValueError, match="no finite loss of .* correct them$"):
        cce.tune(*SHAPES, z_loss=3e38, candidates=1, **OPTIONS)
