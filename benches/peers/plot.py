"""The plot: time in units of T and peak memory, a row of bars a method. Legible on light and on dark pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from report import Report, Row

#: Readable on white and on near-black alike; the background is left transparent.
TEXT = "#7d8590"
GRID = "#7d859040"
#: Forward, and forward + backward: of cce, of others.
OURS = ("#54aeff", "#0969da")
THEIRS = ("#c4b5a5", "#a0785a")
BAR = 0.36


def _panel(axes: Any, rows: list[Row], pairs: list[tuple[float | None, float | None]], unit: str, title: str) -> None:
    most = max((value for pair in pairs for value in pair if value is not None), default=1.0)
    for at, (row, pair) in enumerate(zip(rows, pairs, strict=True)):
        colours = OURS if row.method.startswith("cce") else THEIRS
        for offset, value, colour in zip((-BAR / 2, BAR / 2), pair, colours, strict=True):
            if value is None:
                continue
            axes.barh(at + offset, value, height=BAR, color=colour)
            label = f"{value:.2f}" if value < 9.95 else f"{value:.0f}"
            axes.text(value + most * 0.012, at + offset, label + unit, va="center", fontsize=7.5, color=TEXT)
        if pair[1] is None:
            reason = "not installed" if row.absent else "failed: " + (row.error or "not measured").split(":")[0]
            place = at if pair[0] is None else at + BAR / 2
            axes.text(most * 0.012, place, reason, va="center", fontsize=7.5, style="italic", color=TEXT)
    axes.set_yticks(range(len(rows)), [row.about for row in rows], fontsize=8.5, color=TEXT)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(0, most * 1.16)
    axes.set_title(title, fontsize=9, color=TEXT, loc="left")
    axes.tick_params(colors=TEXT, labelsize=8, length=0)
    axes.tick_params(axis="y", labelsize=8.5)
    axes.xaxis.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.patch.set_alpha(0)
    for side in axes.spines.values():
        side.set_visible(False)


def draw(report: Report, path: Path) -> None:
    """Writes a PNG or an SVG, as the file's name ends."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    heads = [head for head in report.heads if head.rows]
    if not heads:
        raise SystemExit("there is nothing to plot: no row was measured")
    heights = [len(head.rows) * 0.42 + 0.75 for head in heads]
    figure, grid = pyplot.subplots(
        len(heads), 2, figsize=(11, sum(heights) + 0.7), squeeze=False, height_ratios=heights, layout="constrained"
    )
    figure.patch.set_alpha(0)
    for head, (left, right) in zip(heads, grid, strict=True):
        # cce's own together; the others as they were measured.
        rows = sorted(head.rows, key=lambda row: not row.method.startswith("cce"))
        times = [(row.forward.ratio if row.forward else None, row.step.ratio if row.step else None) for row in rows]
        sizes = [
            tuple(None if count is None else count / 2**30 for count in (row.forward_bytes, row.step_bytes))
            for row in rows
        ]
        product = head.product_ms()
        shape = f"{head.tokens} x {head.hidden} x {head.vocab}"
        unit = "" if product is None else f" (T = {product:.3g} ms, the product E Cᵀ alone)"
        _panel(left, rows, times, "", f"{head.name}, {shape}\ntime in T{unit}")
        _panel(right, rows, sizes, "", "\npeak memory beyond inputs, GiB")  # type: ignore[arg-type]
        right.set_yticklabels([])
        left.axvline(1, color=TEXT, linewidth=0.8, linestyle=":")
    legend = [Patch(color=OURS[0]), Patch(color=THEIRS[0]), Patch(color=OURS[1]), Patch(color=THEIRS[1])]
    names = ["cce, forward", "others, forward", "cce, forward + backward", "others, forward + backward"]
    figure.legend(legend, names, loc="outside lower center", ncols=4, frameon=False, labelcolor=TEXT, fontsize=8.5)
    figure.suptitle(str(report.machine.get("card") or ""), fontsize=9, color=TEXT, x=0.995, ha="right")
    aside = path.with_name(f".{path.name}")
    figure.savefig(aside, format=path.suffix.lstrip("."), transparent=True, dpi=200)
    aside.replace(path)
    pyplot.close(figure)
