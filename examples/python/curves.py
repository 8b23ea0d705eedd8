"""What runs of a comparison measured: files, a summary, a plot."""

from __future__ import annotations

import csv
import json
import math
import os
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

SCHEMA = 1


@dataclass
class Point:
    """A run after so many steps. Losses are means in nats."""

    step: int
    train: float | None
    held_out: float
    held_out_rare: float
    #: Of the head's gradient, before clipping: the root of the mean square norm over the steps since the last point.
    gradient_norm: float | None
    #: The same of the rows of rare entries.
    gradient_norm_rare: float | None
    #: The root mean square norm of the head's rows of rare entries.
    rare_row_norm: float


@dataclass
class Run:
    """A training with one loss and one seed."""

    loss: str
    seed: int
    points: list[Point] = field(default_factory=list)
    #: The median over the stretches between two points, evaluation not counted.
    tokens_per_second: float | None = None
    #: The allocator's peak while training, in bytes; None on the CPU.
    peak_bytes: int | None = None


@dataclass
class Statistic:
    """Over seeds; ``deviation`` is the sample's standard deviation, None of a single seed."""

    mean: float
    deviation: float | None

    @staticmethod
    def of(values: Iterable[float]) -> Statistic:
        values = list(values)
        return Statistic(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def text(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.deviation is None else f" ± {self.deviation:.4f}")


MEASURES = ("held_out", "held_out_rare")


@dataclass
class Comparison:
    """All runs so far."""

    settings: dict[str, Any]
    machine: str
    runs: list[Run] = field(default_factory=list)

    def losses(self) -> list[str]:
        return list(dict.fromkeys(run.loss for run in self.runs))

    def last(self, loss: str, measure: str) -> dict[int, float]:
        """A measure at the end of each run with this loss, by seed."""
        return {run.seed: getattr(run.points[-1], measure) for run in self.runs if run.loss == loss}

    def reference(self) -> str:
        """What the others are compared with: the exact loss if it is there, else the first."""
        losses = self.losses()
        return next((name for name in ("exact", "eager") if name in losses), losses[0])

    def summary(self) -> dict[str, Any]:
        """Of each loss: its measures over seeds, and how far it is from the reference."""
        base, found = self.reference(), {}
        for loss in self.losses():
            runs = [run for run in self.runs if run.loss == loss]
            speeds = [run.tokens_per_second for run in runs if run.tokens_per_second is not None]
            peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
            entry: dict[str, Any] = {
                "seeds": len(runs),
                "tokens_per_second": statistics.median(speeds) if speeds else None,
                "peak_bytes": max(peaks) if peaks else None,
            }
            for measure in MEASURES:
                own, theirs = self.last(loss, measure), self.last(base, measure)
                mine, reference = Statistic.of(own.values()), Statistic.of(theirs.values())
                entry[measure] = asdict(mine)
                if loss == base:
                    continue
                shared = [own[seed] - theirs[seed] for seed in own if seed in theirs]
                apart = mine.mean - reference.mean
                entry[measure] |= {
                    f"less_{base}": apart,
                    f"less_{base}_seed_by_seed": asdict(Statistic.of(shared)) if shared else None,
                    f"within_one_deviation_of_{base}": None
                    if reference.deviation is None
                    else abs(apart) <= reference.deviation,
                }
            found[loss] = entry
        return found

    def text(self) -> str:
        """The summary in words."""
        base, lines = self.reference(), []
        for loss, entry in self.summary().items():
            speed, peak = entry["tokens_per_second"], entry["peak_bytes"]
            parts = [
                f"held-out loss {Statistic(**_plain(entry['held_out'])).text()}",
                f"on rare targets {Statistic(**_plain(entry['held_out_rare'])).text()}",
            ]
            if speed is not None:
                parts.append(f"{speed:.0f} tokens/s")
            if peak is not None:
                parts.append(f"peak {peak / 2**30:.2f} GiB")
            lines.append(f"{loss}, {entry['seeds']} seeds: {', '.join(parts)}")
            for measure, name in zip(MEASURES, ("all targets", "rare targets"), strict=True):
                if loss == base:
                    continue
                inside = entry[measure][f"within_one_deviation_of_{base}"]
                verdict = {
                    None: f"{base} has a single seed, so no standard deviation to compare with",
                    True: f"within one standard deviation of {base}",
                    False: f"NOT within one standard deviation of {base}",
                }[inside]
                apart = entry[measure][f"less_{base}"]
                pairs = entry[measure][f"less_{base}_seed_by_seed"]
                beside = "" if pairs is None else f", seed by seed {Statistic(**pairs).text()}"
                lines.append(f"  {name}: {apart:+.4f} from {base}{beside}: {verdict}")
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """``curves.csv`` and ``summary.json``, each whole or not at all."""
        names = [part.name for part in fields(Point)]
        aside = folder / ".curves.csv"
        with aside.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["loss", "seed", *names])
            for run in self.runs:
                writer.writerows([run.loss, run.seed, *asdict(point).values()] for point in run.points)
        os.replace(aside, folder / "curves.csv")
        document = {
            "schema": SCHEMA,
            "machine": self.machine,
            "settings": self.settings,
            "summary": self.summary(),
            "runs": [asdict(run) for run in self.runs],
        }
        aside = folder / ".summary.json"
        aside.write_text(json.dumps(document, indent=1) + "\n")
        os.replace(aside, folder / "summary.json")


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("mean", "deviation")}


#: Readable on white and on near-black alike.
TEXT = "#7d8590"
COLOURS = ("#2f81f7", "#e16f24", "#2da44e", "#bf3989", "#8250df", "#9a6700")


def draw(comparison: Comparison, path: Path) -> None:
    """The curves: means over seeds, with the range that the seeds span."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = (
        ("held_out", "held-out loss, all targets"),
        ("held_out_rare", "held-out loss, rare targets"),
        ("gradient_norm", "norm of the head's gradient"),
        ("gradient_norm_rare", "norm of its rows of rare entries"),
        ("rare_row_norm", "norm of a rare row of the head"),
    )
    figure, grid = pyplot.subplots(1, len(panels), figsize=(16, 3.4), layout="constrained")
    figure.patch.set_alpha(0)
    for axes, (measure, title) in zip(grid, panels, strict=True):
        for loss, colour in zip(comparison.losses(), COLOURS * 8, strict=False):
            by_step: dict[int, list[float]] = {}
            for run in comparison.runs:
                for point in run.points if run.loss == loss else ():
                    value = getattr(point, measure)
                    if value is not None and math.isfinite(value):
                        by_step.setdefault(point.step, []).append(value)
            steps = list(by_step)
            axes.plot(steps, [statistics.fmean(by_step[s]) for s in steps], color=colour, linewidth=1.4, label=loss)
            low, high = [min(by_step[s]) for s in steps], [max(by_step[s]) for s in steps]
            axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set_title(title, fontsize=9, color=TEXT, loc="left")
        axes.set_xlabel("step", fontsize=8, color=TEXT)
        axes.tick_params(colors=TEXT, labelsize=8)
        axes.grid(True, color=TEXT, alpha=0.25, linewidth=0.7)
        axes.patch.set_alpha(0)
        for side in axes.spines.values():
            side.set_visible(False)
    grid[0].legend(frameon=False, labelcolor=TEXT, fontsize=8)
    aside = path.with_name(f".{path.name}")
    figure.savefig(aside, format=path.suffix.lstrip("."), transparent=True, dpi=160)
    aside.replace(path)
    pyplot.close(figure)
