"""Problems of random shapes, and the plain PyTorch that answers are compared with."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

DEVICE = os.environ.get("CCE_TEST_DEVICE", "cpu")


@dataclass
class Problem:
    """Hidden states, head and targets of one call."""

    e: Tensor
    c: Tensor
    targets: Tensor
    given: dict[str, Tensor] = field(default_factory=dict)


def problem(
    *shape: int,
    hidden: int = 24,
    vocab: int = 300,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    ignored: float = 0.2,
    index: torch.dtype = torch.int64,
) -> Problem:
    """Tokens of this shape; about a fifth of the targets is ignored."""
    generator = torch.Generator().manual_seed(seed)
    e = torch.randn(*shape, hidden, generator=generator).to(DEVICE, dtype)
    c = (torch.randn(vocab, hidden, generator=generator) * 0.5).to(DEVICE, dtype)
    targets = torch.randint(0, vocab, shape, generator=generator, dtype=index)
    targets[torch.rand(shape, generator=generator) < ignored] = -100
    return Problem(e.requires_grad_(), c.requires_grad_(), targets.to(DEVICE))


def logits(e: Tensor, c: Tensor, bias=None, logit_scale=None, softcap=None) -> Tensor:
    """As the documentation defines them."""
    z = e @ c.T
    if bias is not None:
        z = z + bias
    if logit_scale is not None:
        z = z * logit_scale
    return z if softcap is None else softcap * torch.tanh(z / softcap)


def reference(
    e: Tensor,
    c: Tensor,
    targets: Tensor,
    bias=None,
    softcap=None,
    logit_scale=None,
    weight=None,
    label_smoothing=0.0,
    z_loss=0.0,
    ignore_index=-100,
    reduction="mean",
    shift=0,
):
    """The loss and the lse in plain PyTorch, from all logits."""
    if shift:
        e, targets = e[..., :-shift, :], targets[..., shift:]
    z = logits(e, c, bias, logit_scale, softcap)
    lse = torch.logsumexp(z, -1)
    counts = targets != ignore_index
    flat = F.cross_entropy(
        z.flatten(0, -2),
        targets.flatten().long(),
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=float(label_smoothing),
        reduction="none",
    )
    losses = flat.view(targets.shape)
    at = torch.where(counts, targets, 0).long()
    of_token = torch.ones_like(lse) if weight is None else weight[at]
    losses = (losses + of_token * z_loss * lse**2) * counts
    total = (of_token * counts).sum()
    if reduction == "mean":
        loss = losses.sum() / total if total > 0 else losses.sum() * 0.0
    else:
        loss = losses.sum() if reduction == "sum" else losses
    return loss, lse * counts


def doubled(*tensors: Tensor) -> list[Tensor]:
    """Leaves in float64 with the same values."""
    return [tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in tensors]


def distance(got: Tensor, expected: Tensor) -> float:
    """Of two tensors, relative to the second."""
    expected = expected.to(got.device)
    scale = expected.double().norm().clamp_min(1e-30)
    return ((got.double() - expected.double()).norm() / scale).item()


@pytest.fixture(autouse=True)
def repeatable():
    torch.manual_seed(1234)
