"""Weights of different sizes and spreads, for tests of block formats."""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]


def weights(seed: int, rows: int = 24, columns: int = 512) -> Floats:
    """Rows of different size and spread, some with outliers, some on one side of zero."""
    source = np.random.default_rng(seed)
    found = source.standard_normal((rows, columns)) * source.lognormal(-3, 1.5, (rows, 1))
    found[::4, ::37] *= 12
    found[1::4] = np.abs(found[1::4])
    found[2::4] -= 3 * np.abs(found[2::4]).mean(1, keepdims=True)
    return found.astype(np.float32)
