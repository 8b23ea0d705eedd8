"""``@cce.loss``: a function of one token's values becomes a loss over all of them."""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from torch import Tensor

from . import _declare, _native, _options
from ._call import FilterName, Options, Reduction, Scalar, run
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
        *others: NoReturn,
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
        if others:
            self._refuse_others(others)
        _options.reduction(reduction)
        if (targets is not None) != self._has_target:
            self._refuse_targets(targets)
        rows = tuple(name for name in self._outputs if name != "loss" or reduction == "none")
        options = Options(reduction, rows, ignore_index, shift, filter, filter_eps, max_entries, check_targets)
        outputs = run(self.program, e, c, targets, self.defaults | inputs, options, seed)
        return outputs["loss"] if self._outputs == ("loss",) else self._results(**outputs)

    def _refuse_others(self, others: tuple[Any, ...]) -> NoReturn:
        own = [name for name, kind in describe(self.program).inputs if kind not in ("Logit", "Target")]
        raise TypeError(
            f"`{self.__name__}` is given {3 + len(others)} arguments by their place, expected three at most, `e`, `c` "
            "and `targets`: give inputs and options by name, as in "
            f"`{self.__name__}(e, c, targets, {own[0] if own else 'shift'}=...)`"
        )

    def _refuse_targets(self, targets: Any) -> NoReturn:
        name = self.__name__
        if self._has_target:
            raise TypeError(
                f"`{name}`: expected targets, found none: call `{name}(e, c, targets)` with hidden states [..., D], "
                "the head's weight [V, D], and targets [...]; logits are not needed"
            )
        raise TypeError(
            f"`{name}`: it has no Target, expected no targets, found {_options.found(targets)}: leave them out"
        )

    def __reduce__(self) -> tuple[type[Loss], tuple[Any, ...]]:
        # The type of the results is made with the loss: where it is not there, it is made anew.
        return Loss, (self.program, self.__doc__, self.defaults)

    def dump(self, level: str = "program") -> str:
        """The loss as text: ``program``, what was understood; ``gradient``, what was derived."""
        return _native.dump(self.program, level)

    def __repr__(self) -> str:
        return f"<cce loss {self.__name__}>"


#: Names that calls of a loss use themselves.
_RESERVED = frozenset(name for name in inspect.signature(Loss.__call__).parameters if name not in ("inputs", "others"))


def loss(function: Callable[..., Any] | None = None, *others: NoReturn, **options: NoReturn) -> Loss:
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
        TypeError: anything else than one function.
        LossError: what is not valid, where, and what to write instead.
    """
    if function is None or others or options or isinstance(function, Loss):
        _refuse(function, others, options)
    program, defaults = _declare.trace(function, _RESERVED)
    return Loss(program, function.__doc__, defaults)


def _refuse(function: Any, others: tuple[Any, ...], options: dict[str, Any]) -> NoReturn:
    """Says what :func:`loss` is given instead of one function."""
    if isinstance(function, Tensor) or any(isinstance(other, Tensor) for other in (*others, *options.values())):
        raise TypeError(
            "expected a function for `cce.loss`, found tensors: it makes a loss of a function, which is then called "
            "with them; for cross entropy call `cce.linear_cross_entropy(e, c, targets)`"
        )
    if isinstance(function, Loss):
        raise TypeError(
            f"expected a function for `cce.loss`, found {function!r}: it is a loss already, called with "
            "`(e, c, targets)`"
        )
    given = ", ".join([*map(_options.found, others), *(f"`{name}`" for name in options)])
    if given:
        raise TypeError(
            f"expected a function for `cce.loss` and nothing besides, found {given}: write `@cce.loss`, and give "
            "options where the loss is called, as in `my_loss(e, c, targets, reduction='sum')`"
        )
    raise TypeError(
        "expected a function for `cce.loss`, found none: write `@cce.loss` above its `def`, without parentheses"
    )
