"""Several measures at once: p values that hold together."""

from __future__ import annotations

from collections.abc import Sequence


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (Scandinavian Journal of Statistics 6, 1979), in the order of `values`: whoever calls
    those below 0.05 different errs in one of them or more in 5 % of cases at most."""
    count = len(values)
    adjusted = [0.0] * count
    highest = 0.0
    for place, index in enumerate(sorted(range(count), key=lambda one: values[one])):
        highest = max(highest, min(1.0, (count - place) * values[index]))
        adjusted[index] = highest
    return adjusted
