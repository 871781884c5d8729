"""Every compiled variant that this processor runs, against the plain formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch

from veneer.losses.scores import losses_and_grads_reference
from veneer.native.attention import Documents
from veneer.native.functions import KernelProducts, Kernels

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_what_is_not_a_number_stays_visible(native: Kernels, dtype: torch.dtype) -> None:
    x = torch.ones(4, 64).to(dtype)
    x[2, 5] = math.nan
    q = x.view(4, 1, 64)
    output, _ = native.attention_forward(q, q, q, Documents((4,)), 1.0)
    assert output[2].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "vocab"), [(1, 2), (3, 1023), (5, 1024), (4, 1025), (7, 50_001)])
def test_cross_entropy_equals_the_reference(native: Kernels, rows: int, vocab: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(rows * vocab)
    scores = (6 * torch.randn(rows, vocab, generator=generator)).to(dtype)
    targets = torch.randint(0, vocab, (rows,), generator=generator)
    scores[0, targets[0]] = 60.0  # one target that leads by more than float32 resolves next to 1
    scores[-1, targets[-1]] = -80.0  # and one that trails by as much
    expected, slopes = losses_and_grads_reference(scores.double(), targets)
    only_losses = native.cross_entropy(scores.clone(), targets, gradient=False)
    losses = native.cross_entropy(scores, targets, gradient=True)
    assert torch.equal(losses, only_losses)
    assert bool(((losses - expected).abs() <= 2e-6 * expected.abs() + 1e-38).all())
    bound = slopes.abs() * (2**-8 if dtype is torch.bfloat16 else 4e-6) + 1e-37
    assert bool(((scores - slopes).abs() <= bound).all())


def test_cross_entropy_passes_on_what_is_not_finite(native: Kernels) -> None:
    scores = torch.randn(3, 2000)
    scores[0, 5], scores[1, 1500] = float("nan"), float("inf")
    losses = native.cross_entropy(scores, torch.tensor([5, 3, 0]), gradient=True)
    assert losses.isfinite().tolist() == [False, False, True]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_operations_of_the_peak_are_counted_for_all_threads(native: Kernels, dtype: torch.dtype) -> None:
    once = native.peak(dtype, 1000, 1)
    tiles = native.step_products(dtype) is KernelProducts.TILES
    # In ten rounds four tiles of 16 x 16 sums of 32 terms, or in each twelve vectors of four floats or more.
    assert once % (100 * 4 * 16 * 16 * 32 * 2 if tiles else 1000 * 12 * 2 * 4) == 0
    assert native.peak(dtype, 3000, 1) == 3 * once
    assert native.peak(dtype, 1000, 2) == 2 * once


@pytest.mark.parametrize("columns", [1, 7, 1024, 1025, 49_152])
def test_the_likeliest_is_the_first_of_the_largest_as_numpy_has_it(native: Kernels, columns: int) -> None:
    scores = torch.randn(6, columns).round(decimals=1)  # many are as large as the largest
    scores[1] = -torch.inf
    scores[2, -1] = torch.inf
    scores[3, columns // 2] = scores[3, columns // 3] = torch.nan
    scores[4] = 0.0
    scores[4, ::2] = -0.0
    rows = [5, 0, 4, 3, 3, 2, 1]
    assert native.likeliest(scores, rows) == scores.numpy().argmax(axis=1)[rows].tolist()
