"""The documentation's Python is run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Examples of a trainer's own code, which names what only a trainer has.
ELSEWHERE = ("lm_head", "AutoModelForCausalLM")


@pytest.mark.parametrize("page", ["README.md", "docs/pytorch.md", "cce-torch/README.md"])
def test_the_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.setenv("CCE_TUNING_DIR", str(tmp_path / "tuning"))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    blocks = [block for block in blocks if not any(word in block for word in ELSEWHERE)]
    assert len(blocks) >= 1
    source = tmp_path / "examples.py"
    source.write_text("\n".join(blocks))
    exec(compile(source.read_text(), source, "exec"), {"__name__": "examples"})
