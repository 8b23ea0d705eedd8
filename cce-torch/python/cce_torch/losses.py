"""``@cce.loss``: a function of one token's values becomes a loss over all of them."""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from . import _native, _options, language
from ._call import FilterName, Reduction, Scalar, run
from ._spec import describe


class Loss:
    """A loss of your own: call it with hidden states, head, targets, and its inputs by name.

    Made by :func:`loss`.
    """

    def __init__(self, program: str, doc: str | None, defaults: Mapping[str, float] | None = None) -> None:
        """``defaults`` are numbers for Scalar inputs that a call does not give."""
        self.program = program
        #: Of Scalars that a call may leave out.
        self.defaults = dict(defaults or {})
        description = describe(program)
        self.__name__ = description.name
        self.__doc__ = doc
        self._outputs = tuple(name for name, _ in description.outputs)
        self._has_target = any(kind == "Target" for _, kind in description.inputs)
        results: Any = namedtuple("Outputs", self._outputs)  # type: ignore[misc]
        self._results = results

    def __call__(
        self,
        e: Tensor,
        c: Tensor,
        targets: Tensor | None = None,
        *,
        reduction: Reduction = "mean",
        ignore_index: int = -100,
        shift: int | bool = 0,
        filter: FilterName | None = None,
        filter_eps: float | None = None,
        max_entries: int | None = None,
        seed: int | Tensor | None = None,
        check_targets: bool = False,
        **inputs: Scalar,
    ) -> Any:
        """The loss of all tokens.

        Args:
            e: hidden states [..., D].
            c: the head's weight [V, D].
            targets: [...], where the loss has a Target.
            reduction: of the output ``loss`` over the tokens that count; other outputs stay token by token.
            **inputs: the loss's own: a Row has e's shape without its last dimension (shortened by ``shift``), a Col
                is [V], a Scalar a number or a tensor of one element. Those that are tensors may learn. A Scalar with a
                default may be left out.

        The others are those of :func:`cce_torch.linear_cross_entropy`.

        Returns:
            The loss; of several outputs, a named tuple of them.
        """
        _options.reduction(reduction)
        if (targets is not None) != self._has_target:
            expected = "expected targets" if self._has_target else "it has no Target, expected no targets"
            raise TypeError(f"`{self.__name__}`: {expected}")
        rows = tuple(name for name in self._outputs if name != "loss" or reduction == "none")
        outputs = run(
            self.program,
            e,
            c,
            targets,
            self.defaults | inputs,
            reduction=reduction,
            rows=rows,
            ignore_index=ignore_index,
            shift=shift,
            filter=filter,
            filter_eps=filter_eps,
            max_entries=max_entries,
            seed=seed,
            check_targets=check_targets,
        )
        return outputs["loss"] if self._outputs == ("loss",) else self._results(**outputs)

    def dump(self, level: str = "program") -> str:
        """The loss as text: ``program``, what was understood; ``gradient``, what was derived."""
        return _native.dump(self.program, level)

    def __repr__(self) -> str:
        return f"<cce loss {self.__name__}>"


#: Names that calls of a loss use themselves.
_RESERVED = frozenset(name for name in inspect.signature(Loss.__call__).parameters if name != "inputs")


def loss(function: Callable[..., Any]) -> Loss:
    """Makes a loss of a function of one token's values.

    ::

        @cce.loss
        def gemma2(x, y, cap):
            z = cap * cce.tanh(x / cap)
            return cce.lse(z) - cce.at(z, y)

        loss = gemma2(hidden, head, targets, cap=30.0)

    Parameters are annotated with kinds (``cce.Logit``, ``cce.Target``, ``cce.Row``, ``cce.Col``, ``cce.Scalar``);
    without annotations the first is the Logit, the second the Target, the others Scalars. A Scalar may have a number as
    its default. Names of the call's own options (``reduction``, ``seed``, ``filter``, ...) are refused. For several
    outputs return a dict; the output named ``loss`` is reduced over the tokens, the others are not.

    Raises:
        LossError: what is not valid, where, and what to write instead.
    """
    program, defaults = language.trace(function, _RESERVED)
    return Loss(program, function.__doc__, defaults)
