"""The public interface: documented, typed, and what its documentation says."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path

import cce_torch as cce
import cce_torch.compat.cut_cross_entropy
import cce_torch.compat.cut_cross_entropy.transformers
import cce_torch.transformers
import pytest

PUBLIC = [
    *((cce, name) for name in cce.__all__ if name not in ("__version__", "compat")),
    (cce_torch.transformers, "patch"),
    (cce_torch.transformers, "unpatch"),
    (cce_torch.compat.cut_cross_entropy, "linear_cross_entropy"),
    (cce_torch.compat.cut_cross_entropy, "LinearCrossEntropy"),
    (cce_torch.compat.cut_cross_entropy.transformers, "cce_patch"),
]


def functions_of(thing):
    if not inspect.isclass(thing):
        return [thing]
    own = [member for name, member in vars(thing).items() if inspect.isfunction(member) and not name.startswith("__")]
    return [*own, thing.__init__] if "__init__" in vars(thing) else own


@pytest.mark.parametrize("module, name", PUBLIC, ids=lambda value: value if isinstance(value, str) else "")
def test_everything_public_is_documented_and_typed(module, name):
    thing = getattr(module, name)
    assert inspect.getdoc(thing), f"{name} has no documentation"
    for function in functions_of(thing):
        signature = inspect.signature(function)
        for parameter in signature.parameters.values():
            assert parameter.name == "self" or parameter.annotation is not parameter.empty, (name, parameter)
        assert signature.return_annotation is not signature.empty, name


@pytest.mark.parametrize("name", ["linear_cross_entropy", "tune"])
def test_every_argument_is_described(name):
    function = getattr(cce, name)
    described = re.findall(r"^    \*{0,2}([\w, ]+):", inspect.getdoc(function).split("Args:")[1], re.MULTILINE)
    described = {word.strip() for words in described for word in words.split(",")}
    assert set(inspect.signature(function).parameters) <= described


def test_the_package_says_that_it_is_typed():
    package = Path(importlib.util.find_spec("cce_torch").origin).parent
    assert (package / "py.typed").exists() and (package / "_native.pyi").exists()


def test_the_stub_has_what_the_extension_has():
    stub = (Path(importlib.util.find_spec("cce_torch").origin).parent / "_native.pyi").read_text()
    stated = set(re.findall(r"^(?:def|class) (\w+)", stub, re.MULTILINE)) | {"__VERSION__"}
    there = {name for name in dir(cce._native) if not name.startswith("__") or name == "__VERSION__"}
    assert stated == there
