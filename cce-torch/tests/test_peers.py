"""The benchmark beside peers: its heads, its references, its rows and what it writes, on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import distance

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benches" / "peers")


def run(*arguments: str) -> None:
    """The program as the command line starts it, without a process of its own."""
    import runpy

    runpy.run_path(str(ROOT / "benches" / "peers" / "__main__.py"))["main"](list(arguments))


def test_a_generated_head_has_the_softmax_of_a_trained_one_and_targets_that_follow_it():
    from heads import generated

    head = generated("head", 1024, 128, 2048, device=CPU, seed=5)
    log_probability = (head.e.float() @ head.c.float().T).log_softmax(-1)
    entropy = -(log_probability.exp() * log_probability).sum(-1).mean()
    loss = F.nll_loss(log_probability, head.targets)
    top = log_probability.max(-1).values.exp().mean()
    # One draw deviates from the entropy by about 2 nats a token, so by 0.06 in the mean of 1024.
    assert abs(loss - entropy) < 0.2
    assert 0.5 < loss < 0.7 * torch.tensor(2048.0).log()
    assert 0.2 < top < 0.9


def test_a_generated_head_follows_from_its_seed():
    from heads import generated

    one, same, other = (generated("head", 64, 16, 300, device=CPU, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.e, same.e) and torch.equal(one.c, same.c) and torch.equal(one.targets, same.targets)
    assert not torch.equal(one.targets, other.targets)


def test_the_reference_is_the_gradient_in_float64():
    from heads import generated
    from measure import reference

    head = generated("head", 300, 32, 900, device=CPU, seed=1)
    head.targets[::7] = -100
    found = reference(head)
    e, c = head.e.double().requires_grad_(), head.c.double().requires_grad_()
    loss = F.cross_entropy(e @ c.T, head.targets)
    d_e, d_c = torch.autograd.grad(loss, (e, c))
    assert abs(found.loss - loss.item()) < 1e-6
    assert distance(found.d_e, d_e) < 2e-6
    assert distance(found.d_c, d_c) < 2e-6


def test_quantised_and_plain_files_are_read_alike(tmp_path):
    from heads import read

    save_file = pytest.importorskip("safetensors.torch").save_file
    codes = torch.randint(-127, 128, (40, 64), dtype=torch.int8)
    scale = torch.rand(40, 2).half()
    c = (codes.float() * scale.float().repeat_interleave(32, 1)).bfloat16()
    others = {
        "e": torch.randn(8, 64).bfloat16(),
        "targets": torch.tensor([0, 1, 2, 39, -100, 5, 6, 7], dtype=torch.int32),
    }
    save_file({"c_q": codes, "c_scale": scale, **others}, tmp_path / "codes.safetensors")
    save_file({"c": c, **others}, tmp_path / "plain.safetensors")
    one, other = (read(tmp_path / f"{name}.safetensors", CPU) for name in ("codes", "plain"))
    assert torch.equal(one.c, other.c)
    assert torch.equal(one.e, others["e"])
    assert one.targets.tolist() == others["targets"].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"e": None}, "no e"),
        ({"c": None}, "no c_q, c_scale"),
        ({"targets": torch.tensor([0, 10])}, "1 targets lie outside of 0 to 9"),
        ({"c": torch.randn(10, 5)}, r"c \[10, 5\]"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, change, message):
    from heads import read

    save_file = pytest.importorskip("safetensors.torch").save_file
    tensors = {"e": torch.randn(2, 4), "c": torch.randn(10, 4), "targets": torch.tensor([0, 9])} | change
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, tmp_path / "head.safetensors")
    with pytest.raises(SystemExit, match=message):
        read(tmp_path / "head.safetensors", CPU)


def test_a_peer_that_is_absent_or_fails_keeps_its_row():
    from heads import generated
    from measure import Bench, Sensors
    from methods import Method, logits_loss

    def fails_backward():
        class Broken(torch.autograd.Function):
            @staticmethod
            def forward(ctx, e, c):
                return e.sum() + c.sum()

            @staticmethod
            def backward(ctx, grad):
                raise RuntimeError("out of something\nand more")

        return lambda e, c, targets: Broken.apply(e, c)

    bench = Bench(generated("head", 32, 16, 100, device=CPU, seed=0), 2, Sensors(CPU))
    absent = bench.row(Method("absent", "An absent one", lambda: logits_loss, ("some-peer", "no_such_peer")))
    assert absent.absent == "not installed: pip install some-peer"
    assert "pip install some-peer" in absent.cells()[1]
    broken = bench.row(Method("broken", "A broken one", fails_backward))
    assert broken.error == "RuntimeError: out of something"
    assert broken.forward is not None and broken.step is None
    assert "out of something" in broken.cells()[2]
    fine = bench.row(Method("fine", "A fine one", lambda: logits_loss))
    assert fine.error is None and fine.d_c_error < 0.05


def test_what_is_measured_is_written_and_read_again(tmp_path, capsys):
    from report import Report

    path = tmp_path / "report.json"
    run(
        "--device",
        "cpu",
        "--head",
        "64x32x700",
        "--only",
        "cce-exact",
        "eager",
        "liger",
        "--pairs",
        "2",
        "--json",
        str(path),
    )
    report = Report.read(path)
    rows = {row.method: row for row in report.heads[0].rows}
    assert list(rows) == ["eager", "liger", "cce-exact"]
    assert (report.heads[0].tokens, report.heads[0].hidden, report.heads[0].vocab) == (64, 32, 700)
    exact = rows["cce-exact"]
    assert exact.error is None and exact.loss_error < 1e-5 and exact.d_e_error < 1e-2 and exact.d_c_error < 1e-2
    assert exact.step.ratio > 0 and exact.step.pairs == 2
    liger = rows["liger"]
    assert liger.absent or liger.error, "Liger has no CPU kernels"

    capsys.readouterr()
    run("--from", str(path), "--markdown")
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows)
    assert len({line.count(" | ") for line in table if line[1] != "-"}) == 1


def test_a_report_of_another_schema_is_refused(tmp_path):
    from report import Report

    path = tmp_path / "report.json"
    path.write_text(json.dumps({"schema": 99}))
    with pytest.raises(SystemExit, match="schema 99, expected 1"):
        Report.read(path)


@pytest.mark.parametrize("name", ["plot.svg", "plot.png"])
def test_the_plot_shows_rows_that_are_missing_too(tmp_path, name):
    pytest.importorskip("matplotlib")
    from plot import draw
    from report import HeadReport, Report, Row, Timing

    rows = [
        Row("cce", "cce", "1", forward=Timing.of([1.0, 1.1], [1.0, 1.0]), step=Timing.of([2.0, 2.0], [1.0, 1.0])),
        Row("liger", "Liger", None, absent="not installed: pip install liger-kernel"),
        Row("eager", "eager", None, error="OutOfMemoryError: CUDA out of memory"),
    ]
    draw(Report({"card": "a card"}, [HeadReport("head", 8, 4, 100, 1000, rows)]), tmp_path / name)
    assert (tmp_path / name).stat().st_size > 1000
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pairs", "0"], "expected 1 or more"),
        (["--device", "cpu", "--head", "gemma9"], "there is no head `gemma9`"),
        (["--device", "cpu", "--json", "nowhere/at/all.json"], "there is no folder"),
    ],
)
def test_a_wrong_command_line_says_what_was_expected(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert message in str(stopped.value) + capsys.readouterr().err
