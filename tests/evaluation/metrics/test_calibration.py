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
    assert found.ece <= plain
    assert found.ece == pytest.approx(plain, abs=0.05)
    assert found.low <= found.ece <= found.high


@pytest.mark.slow
def test_a_calibrated_model_has_no_error_but_chance() -> None:
    source = np.random.default_rng(0)
    found = [calibration(*drawn(source, 200, 0.0)) for _ in range(25)]
    assert np.mean([one.ece for one in found]) < 0.7 * np.mean([one.plain for one in found])
    assert np.mean([one.low == 0.0 for one in found]) >= 0.9


def coverage(gap: float, rows: int, runs: int, seed: int) -> float:
    source = np.random.default_rng(seed)
    found = [calibration(*drawn(source, rows, gap)) for _ in range(runs)]
    return float(np.mean([one.low <= gap <= one.high for one in found]))


@pytest.mark.slow
def test_the_interval_holds_the_truth() -> None:
    assert np.mean([coverage(gap, 100, 30, seed) for seed, gap in enumerate((0.1, 0.25))]) >= 0.9


def sure(source: np.random.Generator, rows: int, gap: float, doubt: float) -> tuple[list[float], list[bool], float]:
    """Confidences from 1 − `doubt` to 1, answers that are right less often by `gap`, and the true error."""
    confidence = source.uniform(1 - doubt, 1.0, size=rows)
    share = (confidence - gap).clip(0.0)
    return confidence.tolist(), (source.random(rows) < share).tolist(), float((confidence - share).mean())


def sure_coverage(rows: int, gap: float, doubt: float, runs: int, seed: int) -> float:
    source, held = np.random.default_rng(seed), []
    for _ in range(runs):
        confidence, right, error = sure(source, rows, gap, doubt)
        found = calibration(confidence, right)
        assert found.low <= found.ece <= found.high
        assert found.high > 0.0
        held.append(found.low <= error + 1e-4 and error - 1e-4 <= found.high)
    return float(np.mean(held))


SURE = [(20, 0.05, 0.0), (40, 0.03, 0.0), (100, 0.01, 0.0), (200, 0.005, 0.0), (100, 0.01, 0.001), (200, 0.02, 0.05)]


def test_the_interval_of_a_confident_classifier_holds_the_truth() -> None:
    assert min(sure_coverage(*one, runs=25, seed=i) for i, one in enumerate(SURE)) >= 0.88


@pytest.mark.slow
def test_the_interval_of_a_confident_classifier_holds_the_truth_in_many_simulations() -> None:
    grid = [*SURE, (200, 0.0, 0.02), (200, 0.01, 0.02), (400, 0.02, 0.001), (1000, 0.03, 0.01)]
    held = [sure_coverage(*one, runs=150, seed=i) for i, one in enumerate(grid)]
    assert min(held) >= 0.9
    assert np.mean(held) >= 0.94


def test_sure_answers_that_are_all_right_have_the_interval_of_their_share() -> None:
    found = calibration([1.0] * 20, [True] * 20)
    assert (found.plain, found.low) == (0.0, 0.0)
    assert found.ece == pytest.approx(0.0, abs=1e-3)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 20), abs=0.01)  # Clopper & Pearson


@pytest.mark.parametrize("level", [0.5, 1.0])
def test_the_order_of_rows_makes_no_difference(level: float) -> None:
    right = [True] * 200 + [False] * 200
    found = calibration([level] * 400, right)
    assert found == calibration([level] * 400, right[::-1])
    assert found.plain == pytest.approx(level - 0.5)
    assert len(found.bins) == 1
    source = np.random.default_rng(5)
    confidence = source.choice([0.5, 0.7, 0.9, 0.99, 1.0], size=300)
    hit = source.random(300) < confidence
    order = source.permutation(300)
    assert calibration(confidence.tolist(), hit.tolist()) == calibration(
        confidence[order].tolist(), hit[order].tolist()
    )


def test_rows_of_one_confidence_share_a_bin_and_no_bin_is_small() -> None:
    found = calibration([0.3] + [0.6] * 150 + [0.61 + 0.001 * i for i in range(148)] + [1.0], [True] * 300)
    assert min(one.rows for one in found.bins) >= 30
    assert found.bins[0].rows == 151
    assert sum(one.rows for one in found.bins) == 300


def test_an_error_that_happens_to_vanish_leaves_doubt() -> None:
    found = calibration([0.7] * 3000, [True] * 2100 + [False] * 900)
    assert found.plain == pytest.approx(0.0)
    assert found.high > 0.01


def test_confidences_that_are_no_numbers_have_no_error() -> None:
    found = calibration([float("nan")] * 30, [True] * 30)
    assert np.isnan([found.ece, found.low, found.high]).all()


def test_answers_that_are_all_right_leave_doubt() -> None:
    # A model of 99 % confidence that is right in 99 % of cases has no error; most small samples have no wrong answer.
    source, held = np.random.default_rng(3), []
    for rows in (20, 60, 100):
        for _ in range(40):
            found = calibration([0.99] * rows, (source.random(rows) < 0.99).tolist())
            held.append(found.low <= 1e-4)
    assert np.mean(held) >= 0.94
    certain = calibration([0.99] * 20, [True] * 20)
    assert (certain.low, certain.plain) == (0.0, pytest.approx(0.01))
    assert certain.high > 0.03


@pytest.mark.slow
def test_the_interval_holds_the_truth_in_many_simulations() -> None:
    grid = [(gap, rows) for gap in (0.0, 0.05, 0.1, 0.25) for rows in (100, 300, 1000)]
    assert np.mean([coverage(*one, runs=100, seed=i) for i, one in enumerate(grid)]) >= 0.94


def test_few_rows_are_one_bin() -> None:
    found = calibration([0.7] * 5, [True, True, False, True, True])
    assert len(found.bins) == 1
    assert found.bins[0].rows == 5
