"""Rows that hold something else than finite numbers are found, whatever their sum."""

from __future__ import annotations

import math

import pytest
import torch

from m3qdrant.collection.points import _finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite(dtype: torch.dtype, wrong: float) -> None:
    rows = torch.randn(40, 70).to(dtype)
    expected = torch.ones(40, dtype=torch.bool)
    for row in (0, 7, 39):
        rows[row, torch.randint(70, ())] = wrong
        expected[row] = False
    rows[3, :2] = torch.tensor([math.inf, -math.inf])
    expected[3] = False
    assert _finite(rows).tolist() == expected.tolist() == rows.isfinite().all(1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_sum_that_overflows(dtype: torch.dtype) -> None:
    rows = torch.full((3, 70), torch.finfo(dtype).max, dtype=dtype)
    rows[1, 5] = math.nan
    assert not rows.sum(1).isfinite().any()
    assert _finite(rows).tolist() == [True, False, True]


def test_no_rows() -> None:
    assert _finite(torch.empty(0, 5)).tolist() == []
