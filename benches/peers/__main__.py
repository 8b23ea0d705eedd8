"""The loss of a head and its gradients by cce and by its peers, on the same inputs, in one run.

    python benches/peers                                       # two generated heads, about 90 s on an H100
    python benches/peers --data head.safetensors --json r.json --plot r.svg
    python benches/peers --head 8192x2304x256000 --only cce eager --pairs 31
    python benches/peers --from r.json --markdown --plot r.png  # what was measured, again

Each call takes turns with cuBLAS's product of the same shape, e @ c.T in bf16 into a buffer that is there, whose time
is T. Times are medians over such pairs; behind a ratio stands the interquartile range of the pairs' ratios.

- forward: the mean loss alone, of tensors that require no gradient.
- forward + backward: the loss, dE and dC, by torch.autograd.grad.
- memory: the peak that torch's allocator saw, beyond inputs; results, dE and dC among them, are in it.
- errors: of the loss relative, of dE and dC ||difference|| / ||reference||, against float32 products of the same
  inputs, with tf32 off.
- clock and power: medians of NVML's readings while forward + backward run again and again.

A method that is not installed is listed with what to install; one that fails, with the first line of its error. The
JSON file is written anew after every row. Each method runs with its own defaults, on inputs in bf16.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import time
from pathlib import Path

import torch
from heads import SHAPES, named, read
from measure import Bench, Sensors
from methods import METHODS
from plot import draw
from report import HeadReport, Report, heading, line, version_of

PACKAGES = ("cce-torch", "cut-cross-entropy", "liger-kernel", "triton")


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python benches/peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [method.name for method in METHODS]
    parser.add_argument(
        "--head",
        nargs="+",
        metavar="NAME",
        help=f"{', '.join(SHAPES)}, or a shape as 8192x2304x256000; both by default",
    )
    parser.add_argument("--data", type=Path, metavar="FILE", help="a head of your own; layout: docs/tuning.md")
    parser.add_argument("--only", nargs="+", choices=names, metavar="METHOD", help=", ".join(names))
    parser.add_argument("--pairs", type=int, default=21, help="timed pairs a number (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of generated heads and of sampling (%(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try it out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, after each row")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it: .png or .svg")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown at the end")
    parser.add_argument("--from", type=Path, dest="earlier", metavar="FILE", help="measure nothing: take a --json file")
    args = parser.parse_args(given)
    if args.pairs < 1:
        parser.error(f"--pairs is {args.pairs}, expected 1 or more")
    if args.plot is not None and args.plot.suffix not in (".png", ".svg"):
        parser.error(f"--plot is {args.plot}, expected a name that ends in .png or .svg")
    if args.plot is not None and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib, which is not installed: pip install matplotlib")
    for path in (args.json, args.plot):
        if path is not None and not path.parent.is_dir():
            parser.error(f"there is no folder {path.parent} to write {path.name} into")
    if args.device == "cuda" and args.earlier is None and not torch.cuda.is_available():
        parser.error("torch finds no GPU: expected one, or --device cpu to try the program out")
    return args


def machine(device: torch.device, sensors: Sensors) -> dict[str, str | None]:
    """What the numbers hold for."""
    cuda = device.type == "cuda"
    found: dict[str, str | None] = {
        "card": torch.cuda.get_device_name(device) if cuda else f"CPU ({platform.machine()})",
        "driver": sensors.driver,
        "torch": torch.__version__,
        "CUDA": torch.version.cuda if cuda else None,
    }
    return found | {name: version_of((name, "")) for name in PACKAGES}


def measured(args: argparse.Namespace) -> Report:
    """Measures everything, printing each row and writing the report when it is there."""
    device = torch.device(args.device)
    sensors = Sensors(device)
    report = Report(machine(device, sensors))
    print(report.machine_text())
    if sensors.why_not is not None:
        print(f"clock and power are not shown: {sensors.why_not}")
    wanted = args.head or ([] if args.data else list(SHAPES))
    if args.data is not None:
        wanted = [args.data, *wanted]
    chosen = [method for method in METHODS if args.only is None or method.name in args.only]
    for one in wanted:
        head = read(one, device) if isinstance(one, Path) else named(one, device, args.seed)
        rows = HeadReport(head.name, *head.shape, gradient_bytes=2 * (head.e.numel() + head.c.numel()))
        report.heads.append(rows)
        print(f"\n{rows.title()}\n{heading()}", flush=True)
        bench = Bench(head, args.pairs, sensors)
        for method in chosen:
            start = time.monotonic()
            torch.manual_seed(args.seed)
            row = bench.row(method)
            rows.rows.append(row)
            print(f"{line(row.cells())}  [{time.monotonic() - start:.1f} s]", flush=True)
            if args.json is not None:
                report.write(args.json)
        product = rows.product_ms()
        if product is not None:
            print(f"T {product:.3g} ms")
        del head, bench
    return report


def main(given: list[str] | None = None) -> None:
    args = arguments(given)
    report = measured(args) if args.earlier is None else Report.read(args.earlier)
    if args.markdown:
        print("\n" + report.markdown())
    if args.plot is not None:
        draw(report, args.plot)


if __name__ == "__main__":
    main()
