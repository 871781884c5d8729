from __future__ import annotations

import numpy as np
import pytest

from veneer.evaluation.metrics.calibration import calibration


def drawn(source: np.random.Generator, rows: int, gap: float) -> tuple[list[float], list[bool]]:
    """Confidences from 0.5 to 0.9, and answers that are right less often by `gap`."""
    confidence = source.uniform(0.5, 0.9, size=rows)
    return confidence.tolist(), (source.random(rows) < confidence - gap).tolist()


def test_the_gaps_of_bins_of_equal_size_are_averaged() -> None:
    confidence = [0.9] * 20 + [0.6] * 20
    right = [True] * 15 + [False] * 5 + [True] * 8 + [False] * 12
    found = calibration(confidence, right)
    assert [(round(one.confidence, 3), one.right, one.rows) for one in found.bins] == [(0.6, 0.4, 20), (0.9, 0.75, 20)]
    plain = (0.15 + 0.2) / 2
    assert found.plain == pytest.approx(plain)
    assert found.ece < plain
    assert found.ece == pytest.approx(plain, abs=0.05)
    assert found.low <= found.ece <= found.high


def test_a_calibrated_model_has_no_error_but_chance() -> None:
    source = np.random.default_rng(0)
    found = [calibration(*drawn(source, 400, 0.0)) for _ in range(40)]
    assert np.mean([one.ece for one in found]) < 0.7 * np.mean([one.plain for one in found])
    assert np.mean([one.low == 0.0 for one in found]) >= 0.9


def coverage(gap: float, rows: int, runs: int, seed: int) -> float:
    source = np.random.default_rng(seed)
    found = [calibration(*drawn(source, rows, gap)) for _ in range(runs)]
    return float(np.mean([one.low <= gap <= one.high for one in found]))


def test_the_interval_holds_the_truth() -> None:
    assert np.mean([coverage(gap, 300, 60, seed) for seed, gap in enumerate((0.1, 0.25))]) >= 0.9


def test_answers_that_are_all_right_leave_doubt() -> None:
    # A model of 99 % confidence that is right in 99 % of cases has no error; most small samples have no wrong answer.
    source, held = np.random.default_rng(3), []
    for rows in (20, 60, 100):
        for _ in range(40):
            found = calibration([0.99] * rows, (source.random(rows) < 0.99).tolist())
            held.append(found.low <= 1e-4)
    assert np.mean(held) >= 0.94
    sure = calibration([0.99] * 20, [True] * 20)
    assert (sure.low, sure.plain) == (0.0, pytest.approx(0.01))
    assert sure.high > 0.03


@pytest.mark.slow
def test_the_interval_holds_the_truth_in_many_simulations() -> None:
    grid = [(gap, rows) for gap in (0.0, 0.05, 0.1, 0.25) for rows in (100, 300, 1000)]
    assert np.mean([coverage(*one, runs=400, seed=i) for i, one in enumerate(grid)]) >= 0.94


def test_few_rows_are_one_bin() -> None:
    found = calibration([0.7] * 5, [True, True, False, True, True])
    assert len(found.bins) == 1
    assert found.bins[0].rows == 5
