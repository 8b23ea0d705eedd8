"""The example that trains a GPT, at tiny sizes."""

from __future__ import annotations

import csv
import json
import sysconfig
from pathlib import Path

import pytest
import torch
from conftest import DEVICE

pytest.importorskip("tokenizers")
ROOT = Path(__file__).parents[2]
SMALL = ("--width 32 --layers 1 --heads 2 --context 32 --batch 2 --vocab 700 --held-out 512 --every 2").split()


@pytest.fixture(autouse=True)
def example(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples" / "python")


@pytest.fixture
def text(tmp_path):
    parts = [Path(sysconfig.get_path("stdlib"), f"{name}.py").read_text() for name in ("argparse", "inspect", "typing")]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(parts))
    return path


def train(text: Path, tmp_path: Path, *more: str):
    from train_gpt import main

    given = ["--device", DEVICE, "--text", str(text), "--cache", str(tmp_path / "cache"), *SMALL, *more]
    return main(given)


def test_losses_are_compared_on_the_same_batches(text, tmp_path, capsys):
    losses = ["eager", "exact", "sampled"]
    comparison = train(text, tmp_path, "--steps", "3", "--seeds", "2", "--compare", *losses)
    assert [(run.loss, run.seed) for run in comparison.runs] == [(name, seed) for seed in (0, 1) for name in losses]
    for run in comparison.runs:
        assert [point.step for point in run.points] == [0, 2, 3]
        assert all(point.gradient_norm > point.gradient_norm_rare > 0 for point in run.points[1:])
    by_seed = {name: comparison.last(name, "held_out") for name in losses}
    for seed in (0, 1):
        # bf16's rounding apart; an untrained model of 700 entries is at 6.55.
        assert by_seed["exact"][seed] == pytest.approx(by_seed["eager"][seed], abs=2e-3)
        assert by_seed["sampled"][seed] == pytest.approx(by_seed["eager"][seed], abs=2e-2)
    assert by_seed["exact"][0] != by_seed["exact"][1]

    summary = comparison.summary()
    assert comparison.reference() == "exact"
    assert summary["exact"]["held_out"]["mean"] == pytest.approx(sum(by_seed["exact"].values()) / 2)
    assert isinstance(summary["sampled"]["held_out"]["within_one_deviation_of_exact"], bool)
    printed = capsys.readouterr().out
    assert "sampled, 2 seeds" in printed and "one standard deviation of exact" in printed

    comparison.write(tmp_path)
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert len(rows) == 6 * 3
    assert float(rows[-1]["held_out"]) == by_seed["sampled"][1]
    assert json.loads((tmp_path / "summary.json").read_text())["schema"] == 1


def test_the_losses_fall(text, tmp_path):
    run = train(text, tmp_path, "--steps", "40", "--every", "20", "--batch", "8", "--rate", "1e-2").runs[0]
    assert run.loss == "sampled"
    assert run.points[-1].held_out < run.points[0].held_out - 0.5


def test_a_single_seed_gives_no_verdict(text, tmp_path):
    comparison = train(text, tmp_path, "--steps", "1", "--seeds", "1", "--compare", "exact", "sampled")
    assert comparison.summary()["sampled"]["held_out"]["within_one_deviation_of_exact"] is None
    assert "single seed" in comparison.text()


def test_a_corpus_is_made_once_and_its_held_out_part_is_apart(text, tmp_path):
    import corpus

    content = text.read_text()
    made = corpus.load(content, "a text", 700, tmp_path / "cache")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    again = corpus.load(content, "a text", 700, tmp_path / "cache")
    assert len(files) == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")} == files
    assert torch.equal(made.train, again.train) and torch.equal(made.held_out, again.held_out)
    assert made.vocab == 700
    assert 0.03 < len(made.held_out) / len(made.train) < 0.08
    assert 0.0 < made.rare[made.train.long()].float().mean() <= corpus.RARE
    other = corpus.load(content, "a text", 600, tmp_path / "cache")
    assert other.vocab == 600


def test_rare_entries_are_the_least_frequent_tenth_of_the_tokens():
    from corpus import rare_entries

    tokens = torch.tensor([0] * 50 + [1] * 41 + [2] * 5 + [3] * 4, dtype=torch.int32)
    assert rare_entries(tokens, 6).tolist() == [False, False, True, True, True, True]


@pytest.mark.parametrize("name", ["cce", "sampled:x", "sampled:2", "exact:1"])
def test_a_loss_that_is_not_there_is_refused(name):
    from train_gpt import loss_named

    with pytest.raises(SystemExit, match="expected eager, exact, sampled"):
        loss_named(name)


def test_a_text_that_is_too_short_is_refused(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("a few words, " * 20)
    with pytest.raises(SystemExit, match="expected more than a context of 32"):
        train(path, tmp_path)


def test_the_curves_are_drawn(text, tmp_path):
    pytest.importorskip("matplotlib")
    train(text, tmp_path, "--steps", "2", "--compare", "exact", "sampled", "--out", str(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["curves.csv", "curves.svg", "summary.json"]
