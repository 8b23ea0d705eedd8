"""How tensors become matrices with a stride and an alignment."""

from __future__ import annotations

import pytest
import torch
from cce_torch import _matrices
from torch._subclasses.fake_tensor import FakeTensorMode

#: A matrix on a GPU that nothing is computed on, and the row stride and alignment that its kernels may rely on.
ON_A_GPU = {
    "whole rows": (lambda: torch.empty(10, 24, device="cuda", dtype=torch.bfloat16), (24, 16)),
    "rows of 4 mod 16 bytes": (lambda: torch.empty(10, 26, device="cuda", dtype=torch.bfloat16), (26, 4)),
    "rows of an odd length": (lambda: torch.empty(10, 25, device="cuda", dtype=torch.bfloat16), (25, 2)),
    "padded rows": (lambda: torch.empty(10, 32, device="cuda", dtype=torch.float16)[:, :25], (32, 16)),
    "an offset of one element": (lambda: torch.empty(10, 32, device="cuda", dtype=torch.float16)[:, 1:], (32, 16)),
    "an offset of whole rows": (lambda: torch.empty(10, 32, device="cuda")[3:], (32, 16)),
    "a single row": (lambda: torch.empty(10, 24, device="cuda", dtype=torch.bfloat16)[:1], (24, 16)),
}


@pytest.mark.parametrize("name", ON_A_GPU)
def test_the_alignment_follows_from_the_strides(name):
    make, expected = ON_A_GPU[name]
    with FakeTensorMode():
        assert _matrices.layout(make(), "cuda") == expected


def test_the_cpu_device_takes_any_element():
    assert _matrices.layout(torch.empty(10, 26)[:, 1:], "cpu") == (26, 4)


def test_rows_are_copied_only_where_they_must_be():
    matrix = torch.randn(6, 8)
    for given in (matrix, matrix[:, :5], matrix[1:], matrix[::2], matrix.view(2, 3, 8)):
        assert _matrices.as_rows(given, torch.float32).data_ptr() == given.data_ptr()
    for given in (matrix.T, matrix[:, ::2], matrix[:1].expand(4, 8), matrix.view(2, 3, 8)[:, 1:]):
        rows = _matrices.as_rows(given, torch.float32)
        assert rows.is_contiguous() and torch.equal(rows, given.reshape(-1, given.shape[-1]))


def test_a_matrix_at_another_address_than_its_layout_says_is_moved():
    memory = torch.arange(64, dtype=torch.float32)
    moved = torch.as_strided(memory, (3, 4), (8, 1), 1)
    fixed = _matrices.laid_out(moved, (8, 16))
    assert fixed.data_ptr() % 16 == 0 and fixed.stride() == (8, 1) and torch.equal(fixed, moved)
    assert _matrices.laid_out(fixed, (8, 16)) is fixed
    padded = _matrices.laid_out(fixed, (12, 16))
    assert padded.stride() == (12, 1) and torch.equal(padded, fixed)
    assert _matrices.span(moved) == (moved.data_ptr(), 2 * 8 + 4)
