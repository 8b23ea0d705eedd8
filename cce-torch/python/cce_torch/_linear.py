"""The program behind :func:`cce_torch.linear_cross_entropy` and :func:`cce_torch.token_logprobs`.

One program for the options that a call uses, built by the same tracing as the losses of users.
"""

from __future__ import annotations

from . import language as cce
from ._constant import constant
from ._trace import Trace
from ._values import Value


def _logits(trace: Trace, given: dict[str, Value], x: Value) -> Value:
    """``cap * tanh(scale * (x + bias) / cap)``, without what is not given."""
    z = x
    if "bias" in given:
        z = z + given["bias"]
    if "scale" in given:
        z = given["scale"] * z
    if "cap" in given:
        z = given["cap"] * cce.tanh(z / given["cap"])
    return z


#: The options that are inputs of the program, and their kinds, in the order of its signature.
INPUTS = {"bias": "Col", "weight": "Col", "scale": "Scalar", "cap": "Scalar", "smoothing": "Scalar", "zw": "Scalar"}


def _start(name: str, options: tuple[str, ...]) -> tuple[Trace, Value, Value, dict[str, Value]]:
    trace = Trace(name, "", __file__, 1)
    x = trace.input(trace.whole, "x", "Logit")
    y = trace.input(trace.whole, "y", "Target")
    given = {option: trace.input(trace.whole, option, kind) for option, kind in INPUTS.items() if option in options}
    return trace, x, y, given


@constant
def cross_entropy(options: tuple[str, ...], with_lse: bool) -> str:
    """Cross entropy with these options; outputs ``loss`` and, if wanted, ``lse``."""
    trace, x, y, given = _start("linear_cross_entropy", options)
    z = _logits(trace, given, x)
    l = cce.lse(z)
    nll = l - cce.at(z, y)
    weight = given.get("weight")
    if weight is not None:
        nll = cce.at(weight, y) * nll
    loss = nll
    if "smoothing" in given:
        # As PyTorch's: the uniform part is weighted entry by entry.
        uniform = l - cce.mean(z) if weight is None else cce.mean(weight) * l - cce.mean(weight * z)
        loss = (1.0 - given["smoothing"]) * nll + given["smoothing"] * uniform
    if "zw" in given:
        penalty = given["zw"] * l * l
        loss = loss + (penalty if weight is None else cce.at(weight, y) * penalty)
    trace.builder.output(trace.whole, "loss", trace.operand(trace.whole, loss))
    if with_lse:
        trace.builder.output(trace.whole, "lse", trace.operand(trace.whole, l))
    return trace.finish()


@constant
def token_logprobs(options: tuple[str, ...], with_entropy: bool) -> str:
    """The target's log-probability and, if wanted, the entropy: outputs ``logprob`` and ``entropy``."""
    trace, x, y, given = _start("token_logprobs", options)
    z = _logits(trace, given, x)
    l = cce.lse(z)
    trace.builder.output(trace.whole, "logprob", trace.operand(trace.whole, -(l - cce.at(z, y))))
    if with_entropy:
        trace.builder.output(trace.whole, "entropy", trace.operand(trace.whole, l - cce.expect(z, z)))
    return trace.finish()
