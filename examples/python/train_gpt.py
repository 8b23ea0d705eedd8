"""Trains a small GPT on real text, with the loss of its head computed in one of several ways, or in several, compared.

    python examples/python/train_gpt.py --loss sampled --steps 1000
    python examples/python/train_gpt.py --compare exact sampled --seeds 3 --out runs
    python examples/python/train_gpt.py --device cpu --steps 3 --width 32 --layers 1 --context 32 --batch 2 --vocab 700

By default: 6 layers of 512 with 8 heads (19 M parameters), 32768 entries with a head of their own (twice 17 M), AdamW,
bf16 autocast, 16384 tokens a step. A step takes about 3.8e12 floating-point operations, 6 a parameter and token without
the input embedding. The text is ``--text FILE``, or the sources and texts of Python's standard library and of the
packages installed beside it. A block in 20 is held out, and the tokenizer, BPE, is trained on the others.

Losses: ``eager`` (logits in plain PyTorch), ``exact`` and ``sampled`` (cce), and ``sampled:EPS`` with another step of
the filter, as in ``sampled:2^-8``. Runs of one seed begin with the same weights and see the same batches.

Along each run are measured: the loss on held-out text, of all targets and of rare ones (the least frequent entries that
together make a tenth of the training text), always from plain logits; the norm of the head's gradient and of
its rows of rare entries, and the norm of the head's rare rows; tokens a second and peak memory. ``--out`` gets
curves.csv, summary.json and curves.svg, written anew after each run.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cce_torch as cce
import torch
import torch.nn.functional as F
from corpus import Corpus, load, text_of_this_machine
from curves import Comparison, Point, Run, draw
from gpt import GPT
from torch import Tensor

#: Hidden states [batch, length, width], the head's weight [vocab, width], targets [batch, length]: the mean loss.
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
#: Sequences whose logits the evaluation holds at once.
EVALUATED = 16


def loss_named(name: str) -> Loss:
    """The loss that ``--loss`` calls so."""
    kind, _, eps = name.partition(":")
    if kind == "eager" and not eps:
        return lambda h, c, y: F.cross_entropy(F.linear(h, c).float().flatten(0, -2), y.flatten())
    if kind == "exact" and not eps:
        return lambda h, c, y: cce.linear_cross_entropy(h, c, y, filter="exact")
    if kind == "sampled":
        base, _, power = eps.partition("^")
        try:
            step = (float(base) ** float(power) if power else float(eps)) if eps else None
        except ValueError:
            step = math.nan
        if step is None or 0.0 < step < 1.0:
            return lambda h, c, y: cce.linear_cross_entropy(h, c, y, filter="sampled", filter_eps=step)
    raise SystemExit(f"there is no loss `{name}`: expected eager, exact, sampled, or sampled:EPS as in sampled:2^-8")


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train_gpt.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--loss", default="sampled", help="the loss to train with (%(default)s)")
    which.add_argument("--compare", nargs="+", metavar="LOSS", help="several of them, one after the other, by seed")
    parser.add_argument("--seeds", type=int, help="runs a loss; 1, and 3 with --compare")
    parser.add_argument("--steps", type=int, default=1000, help="(%(default)s)")
    parser.add_argument("--every", type=int, default=50, help="steps between two measurements (%(default)s)")
    parser.add_argument("--text", type=Path, metavar="FILE", help="the text, UTF-8; by default this machine's")
    parser.add_argument("--megabytes", type=float, default=48, help="of the text at most (%(default)s)")
    parser.add_argument("--vocab", type=int, default=32768, help="entries at most (%(default)s)")
    parser.add_argument("--width", type=int, default=512, help="(%(default)s)")
    parser.add_argument("--layers", type=int, default=6, help="(%(default)s)")
    parser.add_argument("--heads", type=int, help="attention heads; one for each 64 of the width")
    parser.add_argument("--context", type=int, default=256, help="tokens of a sequence (%(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="sequences of a step (%(default)s)")
    parser.add_argument("--held-out", type=int, default=65536, help="held-out tokens at most (%(default)s)")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="learning rate at its highest (%(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--compile", action="store_true", help="compile the layers with torch.compile")
    parser.add_argument("--cache", type=Path, help="folder of tokenized texts; in the user's cache by default")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write curves and summary there")
    args = parser.parse_args(given)
    args.heads = args.heads or max(1, args.width // 64)
    args.seeds = args.seeds or (3 if args.compare else 1)
    for name in ("steps", "every", "layers", "context", "batch", "seeds", "held_out"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}, expected 1 or more")
    if args.vocab < 257:
        parser.error(f"--vocab is {args.vocab}, expected 257 or more: there is an entry for each byte")
    if args.width % (2 * args.heads):
        parser.error(f"--width is {args.width}, expected a multiple of twice the {args.heads} attention heads")
    if args.text is not None and not args.text.is_file():
        parser.error(f"there is no file {args.text}, expected a text")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU: expected one, or --device cpu with small sizes")
    if args.out is not None and importlib.util.find_spec("matplotlib") is None:
        parser.error("--out draws the curves with matplotlib, which is not installed: pip install matplotlib")
    if args.cache is None:
        args.cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cce-train-gpt"
    return args


def read_corpus(args: argparse.Namespace) -> Corpus:
    if args.text is None:
        text, source = text_of_this_machine(args.megabytes)
    else:
        text = args.text.read_text(encoding="utf-8", errors="replace")[: int(args.megabytes * 1e6)]
        source = str(args.text)
    corpus = load(text, source, args.vocab, args.cache)
    for name, tokens in (("training", corpus.train), ("held-out", corpus.held_out)):
        if len(tokens) < args.context + 2:
            raise SystemExit(
                f"the {name} text has {len(tokens)} tokens, expected more than a context of {args.context}: give a "
                "longer --text, or a shorter --context"
            )
    if not corpus.rare.any():
        raise SystemExit("no entry is rare: each makes more than a tenth of the text; give a longer --text")
    return corpus


class Training:
    """One run. The corpus lies on the device; batches follow from the seed alone."""

    def __init__(self, args: argparse.Namespace, corpus: Corpus, loss: str, seed: int) -> None:
        self.args, self.device = args, torch.device(args.device)
        self.loss = loss_named(loss)
        self.run = Run(loss, seed)
        torch.manual_seed(seed)
        self.model = GPT(corpus.vocab, args.width, args.layers, args.heads, args.context).to(self.device)
        self.layers = torch.compile(self.model) if args.compile else self.model
        decayed = [p for p in self.model.parameters() if p.dim() == 2]
        others = [p for p in self.model.parameters() if p.dim() != 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
            lr=args.rate,
            betas=(0.9, 0.95),
            fused=True,
        )
        self.tokens = corpus.train.to(self.device)
        self.rare = corpus.rare.to(self.device)
        generator = torch.Generator().manual_seed(seed)
        last = len(corpus.train) - args.context
        self.starts = torch.randint(last, (args.steps, args.batch), generator=generator).to(self.device)
        self.within = torch.arange(args.context + 1, device=self.device)
        windows = corpus.held_out.unfold(0, args.context + 1, args.context)
        wanted = min(len(windows), max(1, args.held_out // args.context))
        self.held_out = windows[torch.arange(wanted) * len(windows) // wanted].to(self.device).long()

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16)

    def rate(self, step: int) -> float:
        """A tenth of the steps, or 100, up; then down to a tenth along a cosine."""
        warm = min(100, max(1, self.args.steps // 10))
        if step < warm:
            return float(self.args.rate) * (step + 1) / warm
        part = (step - warm) / max(1, self.args.steps - warm)
        return float(self.args.rate) * (0.1 + 0.45 * (1 + math.cos(math.pi * part)))

    def step(self, at: int) -> tuple[Tensor, Tensor]:
        """One step; gives its loss and the squares of the norms of the head's gradient's rows."""
        batch = self.tokens[self.starts[at][:, None] + self.within].long()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(at)
        with self.autocast():
            loss = self.loss(self.layers(batch[:, :-1]), self.model.head.weight, batch[:, 1:])
        loss.backward()
        gradient = self.model.head.weight.grad
        assert gradient is not None
        squares = gradient.square().sum(1)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach(), squares

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """The mean loss on held-out text, of all targets and of rare ones, from logits."""
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        for part in self.held_out.split(EVALUATED):
            targets = part[:, 1:].flatten()
            with self.autocast():
                logits = F.linear(self.layers(part[:, :-1]), self.model.head.weight)
            losses = F.cross_entropy(logits.float().flatten(0, 1), targets, reduction="none").double()
            rare = self.rare[targets]
            counts = torch.tensor(len(targets), device=self.device, dtype=torch.float64), rare.sum().double()
            sums += torch.stack((losses.sum(), counts[0], (losses * rare).sum(), counts[1]))
        total, count, of_rare, rare_count = sums.tolist()
        return total / count, of_rare / rare_count if rare_count else math.nan

    def point(self, step: int, losses: list[Tensor], squares: Tensor) -> Point:
        held_out, held_out_rare = self.evaluate()
        rows = self.model.head.weight.detach()[self.rare]
        taken = len(losses)
        return Point(
            step,
            torch.stack(losses).mean().item() if taken else None,
            held_out,
            held_out_rare,
            (squares.sum() / taken).sqrt().item() if taken else None,
            (squares[self.rare].sum() / taken).sqrt().item() if taken else None,
            rows.square().sum(1).mean().sqrt().item(),
        )

    def wait(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def train(self) -> Run:
        """All steps; measures before the first, every so many, and after the last."""
        args, run, cuda = self.args, self.run, self.device.type == "cuda"
        none = torch.zeros(len(self.rare), device=self.device)
        run.points.append(self.point(0, [], none))
        speeds: list[float] = []
        peak = 0
        for first in range(0, args.steps, args.every):
            stretch = range(first, min(first + args.every, args.steps))
            losses, squares = [], none.clone()
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            start = self.wait()
            for at in stretch:
                loss, of_rows = self.step(at)
                losses.append(loss)
                squares += of_rows
            speeds.append(len(stretch) * args.batch * args.context / (self.wait() - start))
            peak = max(peak, torch.cuda.max_memory_allocated() if cuda else 0)
            point = self.point(stretch[-1] + 1, losses, squares)
            run.points.append(point)
            if not math.isfinite(point.held_out):
                raise SystemExit(f"{run.loss}, seed {run.seed}: the loss is not finite after step {point.step}")
        run.tokens_per_second = statistics.median(speeds)
        run.peak_bytes = peak if cuda else None
        return run


def main(given: list[str] | None = None) -> Comparison:
    args = arguments(given)
    names = args.compare or [args.loss]
    for name in names:
        loss_named(name)
    if len(set(names)) < len(names):
        raise SystemExit(f"--compare is {' '.join(names)}, expected each loss once")
    corpus = read_corpus(args)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    machine = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    settings |= {
        "source": corpus.source,
        "entries": corpus.vocab,
        "train_tokens": len(corpus.train),
        "held_out_tokens": len(corpus.held_out),
        "rare_entries": int(corpus.rare.sum()),
    }
    print(
        f"{machine}, torch {torch.__version__}; {corpus.source}: {len(corpus.train)} tokens to train on, "
        f"{len(corpus.held_out)} held out, {corpus.vocab} entries, of which {settings['rare_entries']} are rare",
        flush=True,
    )
    comparison = Comparison(settings, f"{machine}, torch {torch.__version__}, cce {cce.__version__}")
    for seed in range(args.seeds):
        for name in names:
            start = time.perf_counter()
            run = Training(args, corpus, name, seed).train()
            comparison.runs.append(run)
            last = run.points[-1]
            print(
                f"{name}, seed {seed}: held-out {last.held_out:.4f}, rare {last.held_out_rare:.4f}, "
                f"{run.tokens_per_second:.0f} tokens/s, {time.perf_counter() - start:.1f} s",
                flush=True,
            )
            if args.out is not None:
                comparison.write(args.out)
    print(comparison.text())
    if args.out is not None:
        draw(comparison, args.out / "curves.svg")
    return comparison


if __name__ == "__main__":
    main()
