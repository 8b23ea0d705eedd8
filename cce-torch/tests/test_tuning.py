"""The tuner and the diagnosis, from Python."""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import re
import signal
import threading
import time

import cce_torch as cce
import cce_torch.tuning
import numpy as np
import pytest
import torch
from cce_torch import _native, _plans
from conftest import DEVICE, problem

FEW = {"candidates": 3, "progress": False}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A database of the test's own."""
    monkeypatch.setenv("CCE_TUNING_DIR", str(tmp_path / "tuning"))
    _plans.refresh_tuning()
    yield tmp_path / "tuning"
    monkeypatch.undo()
    _plans.refresh_tuning()


@cce.loss
def capped(x, y, bias: cce.Col, cap=30.0):
    z = cap * cce.tanh((x + bias) / cap)
    return cce.lse(z) - cce.at(z, y)


def last_plan():
    return next(reversed(_plans.kept._plans.values()))


def test_later_calls_of_the_problem_use_the_winner():
    p = problem(48, vocab=3000)
    cce.linear_cross_entropy(p.e, p.c, p.targets).backward()
    assert last_plan().grade == "default"
    report = cce.tune(p.e, p.c, p.targets, **FEW)
    assert report.grade == "exact" and report.complete and len(report.candidates) == 3
    cce.linear_cross_entropy(p.e, p.c, p.targets).backward()
    assert last_plan().grade == "exact"
    # Another problem is another.
    cce.linear_cross_entropy(p.e.detach(), p.c, p.targets, filter="exact").backward()
    assert last_plan().grade != "exact"


def test_a_report_is_a_table_and_data():
    report = cce.tune((32, 24), (3000, 24), device=DEVICE, dtype=torch.float32, softcap=20.0, **FEW)
    text = str(report)
    assert text.startswith("linear_cross_entropy, 32 x 24 x 3000 f32, loss and gradients of e, c, filter sampled")
    assert "with softcap = 20" in text and "why it is not the best" in text
    assert f"winner: {report.winner.schedule}" in text and "grade exact" in text
    # By their times, apart from those that tie with the best, or were faster in the screening than in the run-off.
    decided = [one.ms for one in report.candidates if not re.search("a tie|run-off", one.reason)]
    assert decided == sorted(decided) and decided[0] == report.winner.ms
    assert report.candidates[0] == report.winner and report.winner.reason == ""
    assert 0.0 < report.winner.gradient_error < 0.2


def test_a_candidate_is_plain_data_that_is_printed_compared_and_sent_on():
    report = cce.tune((32, 24), (3000, 24), device=DEVICE, dtype=torch.float32, **FEW)
    for one in report.candidates:
        assert type(one) is cce.Candidate and one.status == "ok"
        parts = dataclasses.asdict(one)
        kinds = {name: type(part) for name, part in parts.items()}
        assert kinds == {
            "schedule": str,
            "is_default": bool,
            "status": str,
            "ms": float,
            "spread_ms": float,
            "gradient_error": float,
            "runs": int,
            "reason": str,
        }
        assert one == cce.Candidate(**parts) == pickle.loads(pickle.dumps(one)) == eval(repr(one), vars(cce).copy())
        assert hash(one) == hash(cce.Candidate(**parts)) and one != dataclasses.replace(one, runs=one.runs + 1)
        with pytest.raises(dataclasses.FrozenInstanceError):
            one.ms = 0.0
    assert pickle.loads(pickle.dumps(report)) == report


def candidate(schedule, ms, is_default=False, status="ok", reason=""):
    return cce.Candidate(schedule, is_default, status, ms, 0.1, 1e-3, 5, reason)


def report_of(*candidates, complete=True, undecided=0, in_use=None, again=False):
    return cce.TuneReport(
        problem="loss, 8 x 8 x 8 f32",
        device="a device",
        filter="exact",
        candidates=candidates,
        grade="exact",
        reused=0,
        searched=7,
        in_use=in_use,
        again=again,
        complete=complete,
        undecided=undecided,
        scalars={},
        notes=(),
        folder="",
        seconds=1.0,
    )


def test_the_table_marks_the_default_schedule_like_the_command_line_s():
    report = cce.tune((32, 24), (3000, 24), device=DEVICE, dtype=torch.float32, **FEW)
    (default,) = [one for one in report.candidates if one.is_default]
    (marked,) = [line for line in str(report).splitlines() if "(the default)" in line]
    assert f"  {default.schedule} (the default)" in marked and f"{default.ms:.3f}" in marked
    assert report.default == default

    slow, quick = candidate("slow", 4.0, is_default=True, reason="100 % slower"), candidate("quick", 2.0)
    assert "slow (the default)  100 % slower" in str(report_of(quick, slow))
    assert "winner: quick (2.000 ms, 0.500 of the default's time); calls" in str(report_of(quick, slow))
    assert "winner: slow (4.000 ms, the default); calls" in str(report_of(slow, candidate("quick", 3.99)))
    # A default that could not run has no time to compare with.
    refused = candidate("slow", None, is_default=True, status="constraint", reason="too large")
    text = str(report_of(quick, refused))
    assert "slow (the default)  constraint: too large" in text and "winner: quick (2.000 ms); calls" in text
    assert report_of(quick, refused).default is None
    assert "no winner: no candidate could run" in str(report_of(refused))
    # What breaks a constraint was not tried.
    assert "1 of 7 candidates tried, 0 stored before; 1.0 s" in text


def test_a_report_that_the_time_cut_short_says_so():
    quick = candidate("quick", 2.0)
    text = str(report_of(quick, complete=False))
    assert "the time is spent, call it again to go on; until then the winner: quick" in text
    anew = str(report_of(quick, complete=False, in_use="slow, which won the last whole run-off (4 ms)", again=True))
    assert "call it without again=True to go on" in anew
    assert "calls of this problem use slow, which won the last whole run-off (4 ms) (grade exact)" in anew
    text = str(report_of(quick, complete=False, undecided=3))
    assert "the time is spent in the run-off, 3 near the best not compared to the end, call it again to go on" in text


def test_what_is_stored_is_not_measured_again_unless_asked():
    shapes = ((32, 24), (3000, 24))
    options = {"device": DEVICE, "dtype": torch.float32, **FEW}
    assert cce.tune(*shapes, **options).reused == 0
    assert cce.tune(*shapes, **options).reused == 3
    assert cce.tune(*shapes, again=True, **options).complete


@pytest.mark.parametrize(
    "call, options",
    [
        (lambda p, **o: cce.linear_cross_entropy(p.e, p.c, p.targets, **o), {"softcap": 9.0, "z_loss": 1e-3}),
        (lambda p, **o: cce.linear_cross_entropy(p.e, p.c, p.targets, **o), {"filter": "exact", "return_lse": True}),
        (lambda p, **o: cce.linear_cross_entropy(p.e, p.c, p.targets, **o), {"filter_eps": 2.0**-6}),
        (lambda p, **o: cce.token_logprobs(p.e, p.c, p.targets, **o), {"loss": cce.token_logprobs, "entropy": False}),
        (lambda p, **o: capped(p.e, p.c, p.targets, **o), {"loss": capped, "bias": "learns"}),
        (lambda p, **o: cce.linear_cross_entropy(p.e, p.c, p.targets, **o), {"bias": "learns", "softcap": 30.0}),
    ],
)
def test_a_call_s_arguments_state_its_problem(call, options):
    p = problem(20, vocab=2500)
    if "bias" in options:
        options = options | {"bias": torch.zeros(2500, device=DEVICE, requires_grad=True)}
    report = cce.tune(p.e, p.c, p.targets, **options, **FEW)
    call(p, **{name: value for name, value in options.items() if name != "loss"})
    assert last_plan().grade == "exact", report


def test_everything_that_a_call_is_given_may_be_passed_on():
    p = problem(20, vocab=2500)
    more = {"reduction": "sum", "shift": 0, "seed": 3, "check_targets": True, "main_grad": torch.zeros_like(p.c)}
    report = cce.tune(p.e, p.c, p.targets, loss=cce.linear_cross_entropy, softcap=9.0, **more, **FEW)
    cce.linear_cross_entropy(p.e, p.c, p.targets, softcap=9.0)
    assert last_plan().grade == "exact" and report.scalars == {"softcap": 9.0}


def test_a_scalar_of_one_is_a_number_and_stands_for_no_tensor():
    report = cce.tune((20, 24), (2500, 24), device=DEVICE, dtype=torch.float32, softcap=1.0, **FEW)
    assert report.scalars == {"softcap": 1.0}


def test_a_loss_of_one_s_own_has_its_own_names():
    report = cce.tune((20, 24), (2500, 24), device=DEVICE, loss=capped, gradients=["e", "cap", "e"], cap=2.0, **FEW)
    assert report.problem.endswith("loss and gradients of e, cap") and report.scalars == {"cap": 2.0}


def test_shapes_and_names_of_gradients_state_the_same_problem():
    p = problem(20, vocab=2500)
    cce.tune((2, 10, 24), (2500, 24), device=DEVICE, dtype=torch.float32, bias=True, gradients=["e", "bias"], **FEW)
    bias = torch.zeros(2500, device=DEVICE, requires_grad=True)
    cce.linear_cross_entropy(p.e, p.c.detach(), p.targets, bias)
    assert last_plan().grade == "exact"


def test_a_budget_ends_it_with_a_winner_and_the_same_call_goes_on(folder):
    call = dict(device=DEVICE, dtype=torch.float32, progress=False, candidates=4)
    short = cce.tune((32, 24), (3000, 24), budget=0.01, **call)
    assert not short.complete and short.winner is not None
    assert cce.tune((32, 24), (3000, 24), budget=None, **call).complete


def test_progress_is_reported_to_a_function_and_its_exception_ends_the_search(folder):
    seen = []
    cce.tune(
        (32, 24), (3000, 24), device=DEVICE, dtype=torch.float32, candidates=3, progress=lambda *news: seen.append(news)
    )
    assert "computing the reference" in [line for _, _, lines in seen for line in lines]
    done, total, _ = seen[-1]
    assert 0 < done == total

    def enough(done, total, lines):
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        cce.tune((64, 24), (3000, 24), device=DEVICE, dtype=torch.float32, progress=enough)


def test_without_a_terminal_progress_is_lines_on_standard_error(capsys, monkeypatch):
    monkeypatch.setattr("cce_torch.tuning._PAUSE", math.inf)
    cce.tune((32, 24), (3000, 24), device=DEVICE, dtype=torch.float32, candidates=2)
    written = capsys.readouterr()
    assert "computing the reference\n" in written.err and written.out == ""
    assert "steps" not in written.err
    monkeypatch.setattr("cce_torch.tuning._PAUSE", 0.0)
    cce.tune((32, 24), (3000, 24), device=DEVICE, dtype=torch.float32, candidates=2, again=True)
    assert re.search(r"^\d+ of \d+ steps$", capsys.readouterr().err, re.MULTILINE)
    # Whether or not a step is done.
    cce_torch.tuning._callback(True)(0, 20, [])
    assert capsys.readouterr().err == "0 of 20 steps\n"
    cce.tune((32, 24), (3000, 24), device=DEVICE, dtype=torch.float32, again=True, **FEW)
    assert capsys.readouterr().err == ""


def test_ctrl_c_ends_it_and_what_was_stored_is_kept():
    shapes = ((256, 64), (8000, 64))
    options = {"device": DEVICE, "dtype": torch.float32, "filter": "exact", "candidates": 8}
    totals = []

    def interrupt_in_the_finals(done, total, lines):
        # The finals are further steps, and begin when the screening is stored.
        totals.append(total)
        if total > totals[0] > 0 and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        if totals[0] == 0:
            totals.clear()

    sent = []
    with pytest.raises(KeyboardInterrupt):
        cce.tune(*shapes, progress=interrupt_in_the_finals, **options)
    assert sent
    report = cce.tune(*shapes, progress=False, **options)
    assert report.complete and report.reused > 0


def test_the_interpreter_runs_on_while_it_tunes():
    counted, ended = [0], threading.Event()

    def count():
        while not ended.is_set():
            counted[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    begun = time.monotonic()
    cce.tune((256, 64), (8000, 64), device=DEVICE, dtype=torch.float32, candidates=8, progress=False)
    took = time.monotonic() - begun
    ended.set()
    thread.join()
    assert counted[0] > 50 * took, (counted[0], took)


def test_a_backward_of_before_runs_the_plan_of_its_forward():
    p = problem(48, vocab=3000)
    options = {"filter": "sampled", "seed": 5}
    expected = torch.autograd.grad(cce.linear_cross_entropy(p.e, p.c, p.targets, **options), (p.e, p.c))
    pending = cce.linear_cross_entropy(p.e, p.c, p.targets, **options)
    cce.tune(p.e, p.c, filter="sampled", **FEW)
    got = torch.autograd.grad(pending, (p.e, p.c))
    assert all(torch.equal(one, other) for one, other in zip(got, expected))


def test_a_compiled_call_is_compiled_again_with_the_winner(monkeypatch):
    ran = []
    own = _native.forward
    monkeypatch.setattr(_native, "forward", lambda plan, *rest: (ran.append(plan.grade), own(plan, *rest))[1])
    p = problem(48, vocab=3000)
    torch._dynamo.reset()
    step = torch.compile(lambda e, c, y: cce.linear_cross_entropy(e, c, y, seed=1), fullgraph=True, backend="aot_eager")
    step(p.e, p.c, p.targets).backward()
    cce.tune(p.e, p.c, **FEW)
    step(p.e, p.c, p.targets).backward()
    assert ran == ["default", "exact"]


MISTAKES = {
    "`e` is 3 (int), expected a tensor [..., D] or its shape": lambda: cce.tune(3, (10, 4)),
    "expected [..., D] and [V, D] with the same D": lambda: cce.tune((3, 4), (10, 5)),
    "there is no option `cap`, expected bias": lambda: cce.tune((3, 4), (10, 4), cap=3.0),
    "`softcap` is '3' (str)": lambda: cce.tune((3, 4), (10, 4), softcap="3"),
    "`candidates` is 1.5 (float), expected a whole number": lambda: cce.tune((3, 4), (10, 4), candidates=1.5),
    "`budget` is 0, expected None or a finite number above 0": lambda: cce.tune((3, 4), (10, 4), budget=0),
    "`gradients` has 'd'": lambda: cce.tune((3, 4), (10, 4), gradients=["d"]),
    "`gradients` is 'ec'": lambda: cce.tune((3, 4), (10, 4), gradients="ec"),
    "`loss` is 7 (int)": lambda: cce.tune((3, 4), (10, 4), loss=7),
    "write `@cce.loss` above a function of your own": lambda: cce.tune((3, 4), (10, 4), loss=lambda x, y: x),
    "00000..., expected None or a finite number above 0": lambda: cce.tune((3, 4), (10, 4), budget=10**400),
    "`loss` is array([1., 2.]) (ndarray), expected None": lambda: cce.tune((3, 4), (9, 4), loss=np.array([1.0, 2.0])),
    "`budget` is '60s' (str), expected None or a number of seconds": lambda: cce.tune((3, 4), (10, 4), budget="60s"),
    "of a module give its parameter": lambda: cce.tune((3, 4), torch.nn.Linear(4, 10)),
    "the Scalar input `cap` has shape [2], expected one element": lambda: cce.tune(
        (3, 4), (10, 4), loss=capped, cap=torch.ones(2)
    ),
    "`cap` is array([1., 1.]) (ndarray), expected a number": lambda: cce.tune(
        (3, 4), (10, 4), loss=capped, cap=np.ones(2)
    ),
    "`progress` is 'bar' (str)": lambda: cce.tune((3, 4), (10, 4), progress="bar"),
    "`dtype` is torch.float64": lambda: cce.tune((3, 4), (10, 4), dtype=torch.float64, device="cpu"),
    "at least one token": lambda: cce.tune((0, 4), (10, 4)),
    "there is no input `weight`, expected bias, cap": lambda: cce.tune((3, 4), (10, 4), loss=capped, weight=True),
    "leave it out": lambda: cce.tune(torch.zeros(3, 4), (10, 4), device="cuda"),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_say_what_was_expected(message):
    with pytest.raises((TypeError, ValueError)) as raised:
        MISTAKES[message]()
    assert message in str(raised.value)


def test_without_a_database_nothing_is_tuned(monkeypatch):
    monkeypatch.setenv("CCE_TUNING_DIR", "none")
    with pytest.raises(ValueError, match="expected one that CCE_TUNING_DIR names"):
        cce.tune((3, 4), (10, 4), device="cpu", progress=False)


def test_the_doctor_prints_what_it_gives_back(capsys, folder):
    diagnosis = cce.doctor()
    assert capsys.readouterr().out == f"{diagnosis}\n"
    # Which is not printed again where an interactive interpreter shows what a line gave.
    assert "\n" not in repr(diagnosis)
    found = {finding.what: finding for finding in diagnosis.findings}
    assert torch.__version__ in found["PyTorch"].found
    assert found["CPU device"].state == "ok" and found["tuning database"].state == "missing"
    assert {"CUDA driver", "NVRTC", "kernel cache", "plans"} <= set(found)
    assert diagnosis.environment["CCE_TUNING_DIR"] == str(folder)
    cce.tune((3, 24), (1000, 24), device="cpu", **FEW)
    found = {finding.what: finding for finding in cce.doctor(quiet=True).findings}
    assert found["tuning database"].state == "ok" and "winners for 1 problem" in found["tuning database"].found
    assert capsys.readouterr().out == ""
