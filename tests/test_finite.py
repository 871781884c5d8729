"""Finite is what torch calls so."""

from __future__ import annotations

import pytest
import torch

from veneer.finite import all_finite

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_number_that_is_not_finite_is_found_wherever_it_stands(dtype: torch.dtype, value: float) -> None:
    for place in range(35):
        tensor = torch.randn(7, 5).to(dtype)
        assert all_finite(tensor)
        tensor.view(-1)[place] = value
        assert not all_finite(tensor)
        assert not all_finite(tensor.t())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_numbers_are_finite_and_so_is_nothing_at_all(dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    assert all_finite(torch.tensor([most, -most], dtype=dtype))
    assert all_finite(torch.empty(0, 3, dtype=dtype))


def test_a_trained_parameter_is_looked_at_like_its_numbers() -> None:
    assert all_finite(torch.nn.Parameter(torch.ones(2, 3)))
    assert not all_finite(torch.nn.Parameter(torch.tensor([1.0, torch.inf])))
