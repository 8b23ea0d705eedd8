"""The extension module: programs, plans and calls on raw addresses. Private."""

from collections.abc import Callable
from typing import Any

__VERSION__: str

_Span = tuple[int, int]
_Named = tuple[str, int]
_Settings = tuple[str, int | None, int | None, bool]
_Given = tuple[_Span, _Span, _Span | None, list[tuple[str, int, int]], list[tuple[str, float]]]
_Mistake = tuple[int, int | None, str, str | None]

class Builder:
    def __init__(self, site: int, name: str, doc: str) -> None: ...
    def input(self, site: int, name: str, kind_name: str) -> int: ...
    def constant(self, site: int, value: float) -> int: ...
    def neg(self, site: int, a: int) -> int: ...
    def binary(self, site: int, op: str, a: int, b: int) -> int: ...
    def select(self, site: int, cmp: str, lhs: int, rhs: int, then: int, otherwise: int) -> int: ...
    def call(self, site: int, name: str, arguments: list[int]) -> int: ...
    def bind(self, name: str, value: int) -> None: ...
    def lookup(self, site: int, name: str) -> int: ...
    def kind(self, value: int) -> str | None: ...
    def error(self, site: int, message: str, help: str | None) -> int: ...
    def output(self, site: int, name: str, value: int) -> None: ...
    def finish(self) -> tuple[str | None, list[_Mistake]]: ...

class Description:
    name: str
    inputs: list[tuple[str, str]]
    outputs: list[tuple[str, bool]]
    hash: str

class Plan:
    peak: int
    held: int
    rest: int
    filter: str
    samples: bool
    notes: list[str]
    grade: str
    schedule: str
    identity: int
    device: str

def describe(program: str) -> Description: ...
def dump(program: str, level: str) -> str: ...
def functions() -> list[tuple[str, str, str]]: ...
def plan(
    program: str,
    tuning: str,
    shape: tuple[int, int, int],
    dtype_name: str,
    targets: str,
    ignore_index: int | None,
    filter: str | None,
    gradients: tuple[tuple[str, bool] | None, tuple[str, bool] | None],
    input_gradients: list[str],
    layouts: tuple[tuple[int, int], tuple[int, int]],
    device: int | None,
) -> Plan: ...
def plans_alive() -> int: ...
def plans_known() -> tuple[int, int, int]: ...
def forward(
    plan: Plan,
    given: _Given,
    settings: _Settings,
    held: _Span,
    rest: _Span,
    reduced: list[_Named],
    rows: list[_Named],
) -> None: ...
def backward(
    plan: Plan,
    given: _Given,
    settings: _Settings,
    held: _Span,
    rest: _Span,
    reduced: list[_Named],
    rows: list[_Named],
    hidden_gradient: int | None,
    classifier_gradient: int | None,
    input_gradients: list[_Named],
) -> None: ...

class Tuned:
    device: str
    filter: str
    folder: str
    complete: bool
    reused: int
    searched: int
    in_use: str | None
    grade: str
    notes: list[str]
    scalars: list[tuple[str, float]]
    undecided: int
    # The arguments of cce_torch.Candidate.
    candidates: list[dict[str, Any]]

def tune(
    program: str,
    shape: tuple[int, int, int],
    dtype_name: str,
    ignored: bool,
    filter_text: str | None,
    gradients: tuple[bool, bool],
    input_gradients: list[str],
    device_ordinal: int | None,
    scalars: list[tuple[str, float]],
    candidates: int | None,
    budget: float | None,
    again: bool,
    untrained: bool,
    progress: Callable[[int, int, list[str]], object] | None,
    silent: bool,
    worker: tuple[str, list[str]],
) -> Tuned: ...
def work() -> None: ...
def tuning_state() -> str: ...
def doctor(further: list[tuple[str, bool, str, str]]) -> tuple[str, str]: ...
