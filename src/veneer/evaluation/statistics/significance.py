"""Several measures at once: p values that hold jointly."""

from __future__ import annotations

from collections.abc import Sequence


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (Scandinavian Journal of Statistics 6, 1979), in the order of `values`. If all measures
    with a p value below 0.05 are called different, at least one of them is wrong in at most 5 % of cases."""
    count = len(values)
    adjusted = [0.0] * count
    highest = 0.0
    for place, index in enumerate(sorted(range(count), key=lambda one: values[one])):
        highest = max(highest, min(1.0, (count - place) * values[index]))
        adjusted[index] = highest
    return adjusted
