from __future__ import annotations

import numpy as np
import pytest

from veneer.evaluation.statistics.power import rows_needed
from veneer.evaluation.statistics.shares import tango


@pytest.mark.parametrize(("margin", "rows"), [(0.05, 314), (0.02, 1963), (0.01, 7849)])
def test_a_margin_of_some_points_needs_so_many_rows(margin: float, rows: int) -> None:
    assert rows_needed(margin, 0.1) == rows


@pytest.mark.parametrize(("margin", "discordant"), [(0.05, 0.1), (0.03, 0.2)])
def test_with_these_rows_an_equal_model_is_told_in_four_of_five_cases(margin: float, discordant: float) -> None:
    rows = rows_needed(margin, discordant)
    half = discordant / 2
    counts = np.random.default_rng(0).multinomial(rows, [half, half, 1 - discordant], size=4_000)
    low, _ = tango(counts[:, 0], counts[:, 1], rows)
    assert 0.75 <= np.mean(low > -margin) <= 0.85
