"""The losses as functions."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from . import _linear, _options
from ._call import FilterName, Options, Reduction, Scalar, run

#: What the options are called that are inputs of the program under another name.
NAMES = {"scale": "logit_scale", "cap": "softcap", "smoothing": "label_smoothing", "zw": "z_loss"}


def program_inputs(
    bias: Tensor | None,
    weight: Tensor | None,
    logit_scale: Scalar | None,
    softcap: Scalar | None,
    label_smoothing: Scalar,
    z_loss: Scalar,
) -> dict[str, Scalar]:
    """The options that are there, by the names of the program's inputs."""
    given: dict[str, Scalar] = {}
    # Most calls give none of these: what is not there costs next to nothing.
    if bias is not None:
        _options.vector("bias", bias)
        given["bias"] = bias
    if weight is not None:
        _options.vector("weight", weight)
        given["weight"] = weight
    if logit_scale is not None:
        _options.positive("logit_scale", logit_scale)
        given["scale"] = logit_scale
    if softcap is not None:
        _options.positive("softcap", softcap)
        given["cap"] = softcap
    if isinstance(label_smoothing, Tensor) or _options.scalar("label_smoothing", label_smoothing) != 0.0:
        given["smoothing"] = label_smoothing
        if not isinstance(label_smoothing, Tensor) and not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"`label_smoothing` is {label_smoothing}, expected a number from 0 to 1")
    if isinstance(z_loss, Tensor) or _options.scalar("z_loss", z_loss) != 0.0:
        given["zw"] = z_loss
    return given


@overload
def linear_cross_entropy(
    e: Tensor,
    c: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    softcap: Scalar | None = None,
    reduction: Reduction = "mean",
    shift: int | bool = 0,
    return_lse: Literal[False] = False,
    filter: FilterName | None = None,
    filter_eps: float | None = None,
    max_entries: int | None = None,
    seed: int | Tensor | None = None,
    logit_scale: Scalar | None = None,
    label_smoothing: Scalar = 0.0,
    z_loss: Scalar = 0.0,
    weight: Tensor | None = None,
    main_grad: Tensor | None = None,
    check_targets: bool = False,
) -> Tensor: ...


@overload
def linear_cross_entropy(
    e: Tensor,
    c: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    softcap: Scalar | None = None,
    reduction: Reduction = "mean",
    shift: int | bool = 0,
    *,
    return_lse: Literal[True],
    filter: FilterName | None = None,
    filter_eps: float | None = None,
    max_entries: int | None = None,
    seed: int | Tensor | None = None,
    logit_scale: Scalar | None = None,
    label_smoothing: Scalar = 0.0,
    z_loss: Scalar = 0.0,
    weight: Tensor | None = None,
    main_grad: Tensor | None = None,
    check_targets: bool = False,
) -> tuple[Tensor, Tensor]: ...


def linear_cross_entropy(
    e: Tensor,
    c: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    softcap: Scalar | None = None,
    reduction: Reduction = "mean",
    shift: int | bool = 0,
    return_lse: bool = False,
    filter: FilterName | None = None,
    filter_eps: float | None = None,
    max_entries: int | None = None,
    seed: int | Tensor | None = None,
    logit_scale: Scalar | None = None,
    label_smoothing: Scalar = 0.0,
    z_loss: Scalar = 0.0,
    weight: Tensor | None = None,
    main_grad: Tensor | None = None,
    check_targets: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Cross entropy of the logits ``e @ c.T`` without ever writing them to memory.

    The same number as ``F.cross_entropy(softcap(logit_scale * (e @ c.T + bias)), targets)`` in fp32, and gradients
    of every floating-point argument that requires one, in that argument's type.

    Args:
        e: hidden states [..., D], of type float32, float16 or bfloat16. Any strides; not copied if the last is 1 and
            the leading dimensions can be walked with one stride.
        c: the head's weight [V, D], of e's type. Under autocast either may have another type; a copy in autocast's
            lives as long as the call.
        targets: int64 or int32 [...], e's shape without its last dimension; from 0 to V - 1 or ``ignore_index``. One
            out of range makes its token's loss NaN, and with it the reduced one.
        bias: [V], added to the logits.
        ignore_index: the target that marks a token that counts for nothing.
        softcap: bounds the logits, ``softcap * tanh(logits / softcap)``.
        reduction: ``mean`` over the tokens that count (0 if none does), ``sum``, or ``none``: one loss a token, 0 at
            those that are ignored.
        shift: pairs ``e[..., :-shift, :]`` with ``targets[..., shift:]``, without a copy of either's tokens. True is 1.
        return_lse: also gives the logarithm of each token's normaliser, 0 at those that are ignored. It is
            differentiable.
        filter: ``exact``, or ``sampled``: gradients that are unbiased estimates, for a fraction of the work. None is
            ``sampled`` where the options allow it, else ``exact``, which is logged once.
        filter_eps: the step of the sampled filter as a part of a token's normaliser, 2^-10 by default. Smaller is less
            noise and more work.
        max_entries: the most logits that the sampled filter keeps a token, 384 by default, as a mean over each 16
            tokens: a single one may have more.
        seed: of the sampled filter: an int, or one int64 on e's device. None draws one from torch's generator of that
            device: another every call, the same when activation checkpointing recomputes, different on every rank.
        logit_scale: multiplies the logits, bias included: one over the temperature. May be a tensor that learns.
        label_smoothing: the part of the target that is spread over the vocabulary, as PyTorch's.
        z_loss: weight of lse^2, which is added to each token's loss.
        weight: [V], a weight a vocabulary entry, as PyTorch's: ``mean`` divides by the sum of the targets' weights, and
            is refused where they require a gradient. It weighs the z-loss too.
        main_grad: [V, D], float32 or c's type, contiguous: c's gradient is added to it in the backward, in fp32, and
            ``c.grad`` stays as it is. For accumulation over micro-batches; in eager mode. DDP's reducer does
            not see this gradient: reduce the buffer over the ranks yourself.
        check_targets: refuses a target out of range with an IndexError that says where it is, before anything is
            computed. On a GPU this waits for all work on the current stream, once a call, and cannot be captured in a
            CUDA graph: for finding mistakes, not for training.

    Returns:
        The loss, float32: a scalar, or under ``none`` the shape of ``targets[..., shift:]``. With ``return_lse`` a pair
        of it and the lse, of that shape.

    Raises:
        TypeError, ValueError: shapes, types, devices or options that do not fit, with what was expected.
        IndexError: a target out of range, under ``check_targets``.
    """
    _options.reduction(reduction)
    _options.flag("return_lse", return_lse)
    given = program_inputs(bias, weight, logit_scale, softcap, label_smoothing, z_loss)
    if reduction == "mean" and weight is not None and weight.requires_grad and torch.is_grad_enabled():
        # The divisor would have a gradient, too.
        raise ValueError(
            "`weight` requires a gradient and `reduction` is 'mean', which divides by a sum of weights: expected 'sum' "
            "or 'none', or `weight.detach()`"
        )
    program = _linear.cross_entropy(tuple(given), return_lse)
    rows = (("loss",) if reduction == "none" else ()) + (("lse",) if return_lse else ())
    reduced = "mean_by:weight" if reduction == "mean" and weight is not None else reduction
    call = Options(reduced, rows, ignore_index, shift, filter, filter_eps, max_entries, check_targets)
    outputs = run(program, e, c, targets, given, call, seed, main_grad, NAMES)
    return (outputs["loss"], outputs["lse"]) if return_lse else outputs["loss"]


@overload
def token_logprobs(
    e: Tensor,
    c: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    softcap: Scalar | None = None,
    shift: int | bool = 0,
    entropy: Literal[True] = True,
    filter: FilterName | None = None,
    filter_eps: float | None = None,
    max_entries: int | None = None,
    seed: int | Tensor | None = None,
    logit_scale: Scalar | None = None,
    check_targets: bool = False,
) -> tuple[Tensor, Tensor]: ...


@overload
def token_logprobs(
    e: Tensor,
    c: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    softcap: Scalar | None = None,
    shift: int | bool = 0,
    *,
    entropy: Literal[False],
    filter: FilterName | None = None,
    filter_eps: float | None = None,
    max_entries: int | None = None,
    seed: int | Tensor | None = None,
    logit_scale: Scalar | None = None,
    check_targets: bool = False,
) -> Tensor: ...


def token_logprobs(
    e: Tensor,
    c: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    softcap: Scalar | None = None,
    shift: int | bool = 0,
    entropy: bool = True,
    filter: FilterName | None = None,
    filter_eps: float | None = None,
    max_entries: int | None = None,
    seed: int | Tensor | None = None,
    logit_scale: Scalar | None = None,
    check_targets: bool = False,
) -> tuple[Tensor, Tensor] | Tensor:
    """The log-probability of each target and the entropy of its distribution: what GRPO, PPO and DPO are made of.

    Both take a gradient a token: compute any objective from them, and call ``backward`` on it.

    Args:
        entropy: whether the entropy is wanted. Under the sampled filter its gradient has several times the noise of a
            log-probability's.

    The others are those of :func:`linear_cross_entropy`.

    Returns:
        Log-probabilities and entropies in nats, float32, of the shape of ``targets[..., shift:]``, 0 at tokens that are
        ignored; the log-probabilities alone without ``entropy``.
    """
    _options.flag("entropy", entropy)
    given = program_inputs(bias, None, logit_scale, softcap, 0.0, 0.0)
    rows = ("logprob", "entropy") if entropy else ("logprob",)
    call = Options("none", rows, ignore_index, shift, filter, filter_eps, max_entries, check_targets)
    program = _linear.token_logprobs(tuple(given), entropy)
    outputs = run(program, e, c, targets, given, call, seed, names=NAMES)
    return (outputs["logprob"], outputs["entropy"]) if entropy else outputs["logprob"]
