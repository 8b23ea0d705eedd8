"""What was measured, as JSON, as text and as Markdown."""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

SCHEMA = 1


def version_of(package: tuple[str, str] | None) -> str | None:
    """The installed version of a package that is given by its names on PyPI and in Python."""
    if package is None:
        return None
    try:
        return importlib.metadata.version(package[0].split(" ")[0])
    except importlib.metadata.PackageNotFoundError:
        return None


@dataclass
class Timing:
    """Medians over pairs of a call and the product."""

    ms: float
    #: The call's time over the product's.
    ratio: float
    #: The interquartile range of the ratios over their median; None of a single pair.
    spread: float | None
    product_ms: float
    pairs: int

    @staticmethod
    def of(calls: list[float], products: list[float]) -> Timing:
        """From milliseconds, pair by pair."""
        ratios = [call / product for call, product in zip(calls, products, strict=True)]
        ratio = statistics.median(ratios)
        spread = None
        if len(ratios) > 1:
            low, _, high = statistics.quantiles(ratios, n=4)
            spread = (high - low) / ratio
        return Timing(statistics.median(calls), ratio, spread, statistics.median(products), len(ratios))

    def text(self) -> str:
        spread = "" if self.spread is None else f" ±{100 * self.spread:.0f} %"
        return f"{self.ratio:.2f} T{spread} ({self.ms:.3g} ms)"


@dataclass
class Row:
    """A method on a head. What was not measured is None."""

    method: str
    about: str
    version: str | None
    #: How to get a method that is not installed.
    absent: str | None = None
    #: What stopped it: the first line.
    error: str | None = None
    loss: float | None = None
    loss_error: float | None = None
    forward: Timing | None = None
    #: Forward and backward, with the gradients of hidden states and classifier.
    step: Timing | None = None
    forward_bytes: int | None = None
    step_bytes: int | None = None
    d_e_error: float | None = None
    d_c_error: float | None = None
    megahertz: float | None = None
    watts: float | None = None

    def title(self) -> str:
        return self.about if self.version is None else f"{self.about} ({self.version})"

    def cells(self) -> list[str]:
        """As :data:`COLUMNS` names them."""
        if self.absent is not None:
            return [self.title(), f"absent: {self.absent}", *[""] * (len(COLUMNS) - 2)]
        cells = [
            self.title(),
            self.forward.text() if self.forward else "-",
            self.step.text() if self.step else "-",
            _size(self.forward_bytes),
            _size(self.step_bytes),
            _error(self.loss_error),
            f"{_error(self.d_e_error)}, {_error(self.d_c_error)}",
            "-" if self.megahertz is None else f"{self.megahertz:.0f} MHz, {self.watts:.0f} W",
        ]
        if self.error is not None:
            cells[2 if self.forward else 1] = f"failed: {self.error}"
        return cells


COLUMNS = (
    "method",
    "forward",
    "forward + backward",
    "memory, forward",
    "memory, both",
    "error of the loss",
    "of dE, dC",
    "clock, power",
)
WIDTHS = (48, 26, 26, 15, 12, 17, 18, 0)


def _size(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _error(error: float | None) -> str:
    return "-" if error is None else f"{error:.1e}"


@dataclass
class HeadReport:
    """The rows of a head."""

    name: str
    tokens: int
    hidden: int
    vocab: int
    #: Bytes of dE and dC in bf16, which the memory of forward and backward holds.
    gradient_bytes: int
    rows: list[Row] = field(default_factory=list)

    def title(self) -> str:
        shape = f"{self.tokens} x {self.hidden} x {self.vocab}"
        return f"{self.name}: N x D x V = {shape}, bf16; dE and dC take {_size(self.gradient_bytes)}"

    def product_ms(self) -> float | None:
        """The median of T over all rows."""
        times = [t.product_ms for row in self.rows for t in (row.forward, row.step) if t is not None]
        return statistics.median(times) if times else None


@dataclass
class Report:
    """A run."""

    #: Card, driver and versions, by name.
    machine: dict[str, str | None]
    heads: list[HeadReport] = field(default_factory=list)
    schema: int = SCHEMA

    def write(self, path: Path) -> None:
        """Whole or not at all: what was there stays until the new text is."""
        aside = path.with_name(path.name + ".new")
        aside.write_text(json.dumps(asdict(self), indent=1) + "\n")
        os.replace(aside, path)

    @staticmethod
    def read(path: Path) -> Report:
        try:
            data = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise SystemExit(f"{path} cannot be read: {error}; expected what --json wrote") from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else None
            raise SystemExit(f"{path} has schema {found}, expected {SCHEMA}: what --json of this program wrote")
        heads = []
        for head in data["heads"]:
            rows = [Row(**row) for row in head.pop("rows")]
            for row in rows:
                row.forward = Timing(**row.forward) if row.forward else None  # type: ignore[arg-type]
                row.step = Timing(**row.step) if row.step else None  # type: ignore[arg-type]
            heads.append(HeadReport(**head, rows=rows))
        return Report(data["machine"], heads)

    def machine_text(self) -> str:
        return ", ".join(
            f"{name} {value}" if name != "card" else str(value) for name, value in self.machine.items() if value
        )

    def markdown(self) -> str:
        """A table a head."""
        lines = [self.machine_text() + "."]
        for head in self.heads:
            time = head.product_ms()
            lines += ["", head.title() + ("" if time is None else f"; T is {time:.3g} ms") + ".", ""]
            lines += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
            lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row.cells()) + " |" for row in head.rows]
        return "\n".join(lines)


def heading() -> str:
    return line(list(COLUMNS))


def line(cells: list[str]) -> str:
    """Cells as a line of the table on a terminal; one that is too long moves the others."""
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()
