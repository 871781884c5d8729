"""Histograms as plain values, in the form that the common script draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def histograms(columns: Mapping[str, ArrayLike], bins: int) -> list[dict[str, Any]]:
    """A histogram of each column, over common bins up to the 99.5th percentile of all values; what is above it counts
    in the last bin.

    Args:
        columns: whole numbers from 0 on, by what they count. Columns without values are left out, and all columns where
            every value is 0.
        bins: the largest number of bins.
    """
    arrays = {name: np.asarray(values) for name, values in columns.items() if np.size(values)}
    if not any(values.any() for values in arrays.values()):
        return []
    top = max(1, int(np.quantile(np.concatenate(list(arrays.values())), 0.995)))
    made = []
    for name, values in arrays.items():
        counts, edges = np.histogram(np.minimum(values, top), bins=min(bins, top), range=(0, top))
        made.append({"name": name, "counts": counts.tolist(), "edges": np.round(edges).astype(int).tolist()})
    return made
