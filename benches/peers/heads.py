"""Heads to measure on: hidden states, classifier and targets in bf16, generated or a file's.

Generated heads have the distribution of ``Head::generated`` of the crate ``cce-tune`` (cce-tune/src/data/generated.rs,
whose documentation compares it with a trained model's), drawn by torch's generator instead of the crate's: the same
statistics, other bits. C_v = (a_v, r_v) and E_i = (4, h_i), so that E_i . C_v = 4 a_v + h_i . r_v:

- 4 a_v is the logarithm of v's unigram probability less a constant: Zipf's law, 1 / (rank + 2.7), over ranks that
  follow the entries' numbers roughly (normal noise of 0.9 on the logarithm).
- r_v is a random direction of length about 1.
- h_i = 0.55 noise + sum_k 15 exp(-0.09 k) s_i r_cand(i, k): 64 candidates a token, drawn from the unigram distribution
  to the power 0.7; s_i, uniform in [0.6, 1.4], makes tokens more or less certain.
- Targets follow the softmax: drawn by weight among a token's candidates and 64 draws from the unigram distribution that
  stand for all other entries (sampling, importance, resampling: Rubin 1987).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

CANDIDATES = 64
TOP = 15.0
DECAY = 0.09
SIGMA = 0.55
UNIGRAM = 4.0
PROPOSALS = 64
#: Tokens whose candidates' rows are gathered at once.
CHUNK = 256
IGNORED = -100

#: Shapes by name: tokens, hidden size, vocabulary.
SHAPES = {
    "gemma2-2b": ("Gemma 2 2B, generated", 8192, 2304, 256000),
    "llama3-8b": ("Llama 3 8B, generated", 8192, 4096, 128256),
}


@dataclass
class Head:
    """Inputs of a loss: ``e`` [N, D] and ``c`` [V, D] in bf16, ``targets`` int64 [N]."""

    name: str
    e: Tensor
    c: Tensor
    targets: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Tokens, hidden size, vocabulary."""
        return self.e.shape[0], self.e.shape[1], self.c.shape[0]


def named(name: str, device: torch.device, seed: int) -> Head:
    """The head of this name, or of this shape, ``NxDxV``."""
    title, *shape = SHAPES.get(name) or (f"{name}, generated", *_shape(name))
    return generated(title, *shape, device=device, seed=seed)


def _shape(text: str) -> tuple[int, int, int]:
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdigit() for part in parts) or min(map(int, parts)) < 2:
        raise SystemExit(
            f"there is no head `{text}`: expected {', '.join(SHAPES)}, or tokens, hidden size and vocabulary as in "
            "8192x2304x256000, each 2 or more"
        )
    return int(parts[0]), int(parts[1]), int(parts[2])


def unigram(vocab: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """The logarithm of each entry's probability, float64 [V]."""
    number = torch.arange(vocab, dtype=torch.float64, device=device)
    place = (number + 20).log() + 0.9 * torch.randn(vocab, dtype=torch.float64, generator=generator, device=device)
    log_probability = torch.empty_like(place)
    log_probability[place.argsort()] = -(number + 2.7).log()
    return log_probability - log_probability.logsumexp(0)


def _draw(weights: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Entries with probabilities in proportion to ``weights`` (torch.multinomial takes at most 2^24 categories)."""
    running = weights.cumsum(0)
    uniform = torch.rand(shape, dtype=torch.float64, generator=generator, device=weights.device)
    return torch.searchsorted(running, uniform * running[-1], right=True).clamp_max(len(weights) - 1)


def generated(name: str, tokens: int, hidden: int, vocab: int, *, device: torch.device, seed: int) -> Head:
    """A head with a softmax like a trained model's."""
    generator = torch.Generator(device).manual_seed(seed)
    log_probability = unigram(vocab, generator, device)
    c = torch.empty(vocab, hidden, dtype=torch.bfloat16, device=device)
    c[:, 0] = (log_probability - log_probability.mean()) / UNIGRAM
    c[:, 1:].normal_(0.0, 1.0 / math.sqrt(hidden - 1), generator=generator)

    candidates = _draw((0.7 * log_probability).exp(), (tokens, CANDIDATES), generator).sort(-1).values
    # Their order decides their weights, and sorted ones are wanted below: shuffled, they are as drawn.
    order = torch.rand(tokens, CANDIDATES, generator=generator, device=device).argsort(-1)
    weights = TOP * torch.exp(-DECAY * order)
    weights *= 0.6 + 0.8 * torch.rand(tokens, 1, generator=generator, device=device)
    proposals = _draw(log_probability.exp(), (tokens, PROPOSALS), generator)

    e = torch.empty(tokens, hidden, dtype=torch.bfloat16, device=device)
    e[:, 0] = UNIGRAM
    targets = torch.empty(tokens, dtype=torch.int64, device=device)
    for at in range(0, tokens, CHUNK):
        part = slice(at, at + CHUNK)
        known, drawn = candidates[part], proposals[part]
        directions = c[known, 1:].float()
        noise = torch.randn(len(known), hidden - 1, generator=generator, device=device)
        e[part, 1:] = SIGMA * noise + torch.einsum("nk,nkd->nd", weights[part], directions)
        state = e[part, 1:].float()
        of_known = log_probability[known] + torch.einsum("nd,nkd->nk", state, directions)
        of_known[:, 1:].masked_fill_(known[:, 1:] == known[:, :-1], -math.inf)
        of_drawn = torch.einsum("nd,nkd->nk", state, c[drawn, 1:].float()).double() - math.log(PROPOSALS)
        of_drawn.masked_fill_((drawn[:, :, None] == known[:, None, :]).any(-1), -math.inf)
        probabilities = torch.cat((of_known, of_drawn), 1).softmax(-1)
        chosen = torch.multinomial(probabilities, 1, generator=generator)
        targets[part] = torch.cat((known, drawn), 1).gather(1, chosen).squeeze(1)
    return Head(name, e, c, targets)


def read(path: Path, device: torch.device) -> Head:
    """A safetensors file in the layout of docs/tuning.md, "Your own data", rounded to bf16."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise SystemExit(f"--data needs safetensors ({error}): pip install safetensors") from error
    if not path.is_file():
        raise SystemExit(f"there is no file {path}: expected a safetensors file with e, targets, and c or c_q, c_scale")
    tensors = load_file(path, device=str(device))
    missing = [name for name in ("e", "targets") if name not in tensors]
    if "c" not in tensors:
        missing += [name for name in ("c_q", "c_scale") if name not in tensors]
    if missing:
        raise SystemExit(
            f"{path} has {', '.join(sorted(tensors))}, and no {', '.join(missing)}: expected e, targets, and c or c_q "
            "and c_scale"
        )
    if "c" in tensors:
        c = tensors["c"]
    else:
        codes, scale = tensors["c_q"], tensors["c_scale"]
        if scale.shape != (codes.shape[0], codes.shape[1] // 32) or codes.shape[1] % 32:
            raise SystemExit(
                f"{path}: c_q is {list(codes.shape)} and c_scale {list(scale.shape)}, expected [V, D / 32]"
            )
        c = (codes.float().unflatten(1, (-1, 32)) * scale.float()[:, :, None]).flatten(1)
    e, targets = tensors["e"], tensors["targets"].long()
    if e.dim() != 2 or c.dim() != 2 or e.shape[1] != c.shape[1] or targets.shape != e.shape[:1]:
        raise SystemExit(
            f"{path}: e is {list(e.shape)}, c {list(c.shape)}, targets {list(targets.shape)}, expected [N, D], [V, D], "
            "[N]"
        )
    outside = (targets != IGNORED) & ((targets < 0) | (targets >= c.shape[0]))
    if outside.any():
        raise SystemExit(f"{path}: {int(outside.sum())} targets lie outside of 0 to {c.shape[0] - 1}, and are not -100")
    return Head(path.stem, e.bfloat16().contiguous(), c.bfloat16().contiguous(), targets)
