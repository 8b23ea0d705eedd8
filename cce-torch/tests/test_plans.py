"""Plans: how many are kept, what a backward runs, plans that fail, where NVRTC is looked for."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading

import cce_torch as cce
import pytest
import torch
from cce_torch import _linear, _native, _plans
from conftest import DEVICE, problem

SAMPLED = {"filter": "sampled", "filter_eps": 2.0**-4, "max_entries": 64}


@pytest.fixture
def few(monkeypatch):
    """Room for three plans, and none kept yet."""
    _plans.kept.clear()
    monkeypatch.setattr(_plans.kept, "capacity", 3)
    yield _plans.kept
    _plans.kept.clear()


def loss_of(p, **options):
    return cce.linear_cross_entropy(p.e, p.c, p.targets, seed=3, **{**SAMPLED, **options})


def test_no_more_plans_are_kept_than_there_is_room_for(few):
    gc.collect()
    before = _native.plans_alive()
    for tokens in range(1, 20):
        loss_of(problem(tokens, vocab=2000)).backward()
        assert len(few) <= 3
    gc.collect()
    assert _native.plans_alive() <= before + 3


def test_what_was_used_last_is_kept(few):
    for tokens in (1, 2, 3, 1, 4):
        loss_of(problem(tokens, vocab=2000))
    assert [key[1] for key in few._plans] == [3, 1, 4]


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "through the dispatcher"])
def test_a_backward_whose_plan_was_dropped_meanwhile_gives_the_same_bits(few, direct, monkeypatch):
    from cce_torch import _eager

    if not direct:
        monkeypatch.setattr(_eager, "is_eager", lambda: False)
    p = problem(32, vocab=4000)
    expected = torch.autograd.grad(loss_of(p), (p.e, p.c))
    pending = loss_of(p)
    for tokens in range(1, 8):
        loss_of(problem(tokens, vocab=4000))
    assert all(key[1] != 32 for key in few._plans)
    got = torch.autograd.grad(pending, (p.e, p.c))
    assert all(torch.equal(one, other) for one, other in zip(got, expected))


def test_a_pending_backward_runs_the_very_plan_of_its_forward(few, monkeypatch):
    ran = []
    for name in ("forward", "backward"):
        own = getattr(_native, name)
        monkeypatch.setattr(_native, name, lambda plan, *rest, own=own: (ran.append(plan), own(plan, *rest))[1])
    p = problem(16, vocab=2000)
    pending = loss_of(p)
    few.clear()
    pending.backward()
    assert ran[0] is ran[1]


def test_a_plan_that_is_made_again_has_the_schedule_that_it_had(few, tmp_path, monkeypatch):
    # Between the two another schedule wins: a compiled graph that names the plan by its key must not get it.
    monkeypatch.setenv("CCE_TUNING_DIR", str(tmp_path))
    p = problem(64, vocab=4000)
    made = []
    own = _native.plan
    monkeypatch.setattr(_native, "plan", lambda *given: made.append((given, own(*given))) or made[-1][1])
    loss_of(p)
    given, first = made[0]
    schedule = first.schedule
    del first
    made.clear()
    few.clear()
    cce.tune(p.e, p.c, candidates=8, progress=False, **SAMPLED)
    again = own(*given)
    # Chosen anew it would be exact.
    assert (again.schedule, again.grade) == (schedule, "default")
    loss_of(p)
    assert made[0][0][1] != given[1]
    assert made[0][1].grade == "exact"
    monkeypatch.undo()
    _plans.refresh_tuning()


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
def test_a_capacity_that_is_none_is_refused_when_the_package_is_loaded(text):
    done = subprocess.run(
        [sys.executable, "-c", "import cce_torch"],
        env={**os.environ, "CCE_TORCH_PLANS": text},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert f"CCE_TORCH_PLANS is {text!r}, expected how many plans are kept" in done.stderr


def test_the_capacity_is_that_of_the_environment():
    done = subprocess.run(
        [sys.executable, "-c", "from cce_torch import _plans; print(_plans.kept.capacity)"],
        env={**os.environ, "CCE_TORCH_PLANS": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "7\n"


def plan_of(shape=(4, 8, 300), filter_text=None):
    layout = (shape[1], 4)
    gradients = (("f32", False), ("f32", False))
    program = cce._linear.cross_entropy((), False)
    device = None if DEVICE == "cpu" else 0
    return _native.plan(
        program, "none", shape, "f32", "i64", -100, filter_text, gradients, [], (layout, layout), device
    )


def test_a_plan_that_fails_leaves_nothing_and_may_be_asked_for_again():
    gc.collect()
    before = _native.plans_alive()
    for _ in range(2):
        with pytest.raises(ValueError, match="expected at least 1"):
            plan_of((4, 8, 0))
        with pytest.raises(ValueError, match="sampled"):
            plan_of(filter_text="sampled:2.0,384")
    # Those that others let go of meanwhile are fewer.
    assert _native.plans_alive() <= before
    assert plan_of(filter_text="exact").filter == "exact"


@pytest.mark.skipif(DEVICE != "cpu", reason="addresses of the host")
def test_an_address_of_nothing_is_refused_wherever_elements_are_expected():
    plan = plan_of()
    e, c, y = torch.zeros(4, 8), torch.zeros(300, 8), torch.zeros(4, dtype=torch.int64)
    held = torch.empty(plan.held, dtype=torch.uint8)
    rest = torch.empty(plan.peak - plan.held, dtype=torch.uint8)
    out = torch.zeros(())
    whole = [_span(e), _span(c), _span(y)]
    settings = ("mean", None, None, False)

    def forward(given, reduced):
        _native.forward(plan, (*given, [], []), settings, _span(held), _span(rest), reduced, [])

    forward(whole, [("loss", out.data_ptr())])
    assert out.item() == pytest.approx(5.70378, abs=1e-4)
    for at in range(3):
        given = [(0, of[1]) if place == at else of for place, of in enumerate(whole)]
        with pytest.raises(ValueError, match="its address is 0"):
            forward(given, [("loss", out.data_ptr())])
    with pytest.raises(ValueError, match="its address is 0"):
        forward(whole, [("loss", 0)])


def _span(tensor):
    return tensor.data_ptr(), tensor.numel()


class _Spec:
    def __init__(self, *roots):
        self.submodule_search_locations = [str(root) for root in roots]


@pytest.mark.parametrize(
    "cuda, present, expected",
    [
        ("13.0", ["cu13", "cuda_nvrtc"], "cu13"),
        ("12.8", ["cu13", "cuda_nvrtc"], "cuda_nvrtc"),
        ("12.8", ["cu13"], "cu13"),
        ("13.0", ["cuda_nvrtc"], "cuda_nvrtc"),
        (None, [], None),
    ],
)
def test_nvrtc_of_the_cuda_that_torch_was_built_for_comes_first(cuda, present, expected, tmp_path, monkeypatch):
    for folder in present:
        (tmp_path / folder / "lib").mkdir(parents=True)
        for name in ("libnvrtc.so.12", "libnvrtc.so.13"):
            (tmp_path / folder / "lib" / name).touch()
    loaded = []
    monkeypatch.setattr(_plans.importlib.util, "find_spec", lambda name: _Spec(tmp_path))
    monkeypatch.setattr(_plans.ctypes, "CDLL", loaded.append)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("CCE_NVRTC_PATH", raising=False)
    _plans.load_nvrtc.__wrapped__()
    assert [path.split("/")[-3] for path in loaded] == ([] if expected is None else [expected])
    # The newest of a folder, and nothing else.
    assert all(path.endswith("libnvrtc.so.13") for path in loaded)


def test_a_path_that_the_user_names_is_left_to_the_native_side(monkeypatch):
    loaded = []
    monkeypatch.setattr(_plans.ctypes, "CDLL", loaded.append)
    monkeypatch.setenv("CCE_NVRTC_PATH", "/somewhere")
    _plans.load_nvrtc.__wrapped__()
    assert loaded == []


def test_a_schedule_on_a_gpu_that_was_not_tuned_for_the_problem_is_said_once(caplog):
    class OfGpu:
        notes, grade, device = [], "near shape (tuned at 8192 x 64 x 300)", "NVIDIA Invented"

    class OfCpu(OfGpu):
        device = "cpu"

    class Tuned(OfGpu):
        grade = "exact"

    class Spec:
        program, wants_gradients = cce._linear.cross_entropy((), False), True

    with caplog.at_level(logging.INFO, logger="cce_torch"):
        for plan in (OfGpu, OfGpu, OfCpu, Tuned):
            _plans._say(Spec, plan)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("linear_cross_entropy on NVIDIA Invented: the schedule's grade is near shape")
    assert "`cce_torch.tune`" in line


def native_plan(tokens, program=None):
    layout = (8, 4)
    program = program or _linear.cross_entropy((), False)
    return _native.plan(
        program, "none", (tokens, 8, 16), "f32", "i64", -100, "exact", (None, None), [], (layout, layout), None
    )


def test_what_is_known_of_plans_that_nobody_keeps_is_bounded(few):
    most = _native.plans_known()[1]
    kept = native_plan(7)
    identity = kept.identity
    text = _linear.cross_entropy((), False)
    for number in range(300):
        native_plan(3, text.replace("linear_cross_entropy", f"loss_{number}"))
    known, _, texts = _native.plans_known()
    assert known >= 300 and texts >= 300
    for tokens in range(10_000, 10_000 + 2 * most):
        native_plan(tokens)
    gc.collect()
    known, _, left = _native.plans_known()
    assert known <= most + _native.plans_alive()
    # The texts of programs that none of the plans has went with them.
    assert left <= texts - 300
    # What somebody keeps stays, however long ago it was asked for.
    assert native_plan(7).identity == identity


def test_threads_that_make_plans_while_others_are_forgotten_each_get_their_own():
    failed = []

    def make(first):
        for tokens in range(first, first + 4000):
            if f"tokens: {tokens}" not in repr(native_plan(tokens)):
                failed.append(tokens)

    threads = [threading.Thread(target=make, args=(100_000 + 2000 * at,)) for at in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
