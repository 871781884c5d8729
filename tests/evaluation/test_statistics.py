from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from veneer.errors import DataError
from veneer.evaluation import statistics
from veneer.evaluation.scoring import RowScore
from veneer.evaluation.statistics import RESAMPLES, compare, metrics


def scored(seed: int, count: int, *, exact: float = 0.5, answers: bool = True) -> list[RowScore]:
    source = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        tokens = int(source.integers(1, 20))
        right = bool(source.random() < exact)
        fields = float(source.integers(0, 5)) / 4
        found.append(
            RowScore(float(source.gamma(2.0)) * tokens, tokens, "a", right, fields)
            if answers
            else RowScore(float(source.gamma(2.0)) * tokens, tokens, None, None, None)
        )
    return found


def mean(name: str, rows: list[RowScore]) -> float:
    """The measure, written out."""
    if name in ("loss", "perplexity"):
        value = sum(row.loss_sum for row in rows) / sum(row.supervised for row in rows)
        return math.exp(value) if name == "perplexity" else value
    values = [row.exact if name == "exact" else row.fields for row in rows]
    present = [float(value) for value in values if value is not None]
    return sum(present) / len(present) if present else math.nan


def draws(count: int) -> np.ndarray:
    return np.concatenate(list(statistics._draws(count)))


def test_measures_are_these_and_in_this_order() -> None:
    rows = scored(0, 12)
    found = metrics(rows)
    assert [one.name for one in found] == ["exact", "fields", "loss", "perplexity"]
    for one in found:
        assert one.value == pytest.approx(mean(one.name, rows), rel=1e-12)
        assert one.low <= one.value <= one.high
    by_name = {one.name: one for one in found}
    assert by_name["perplexity"].low == pytest.approx(math.exp(by_name["loss"].low))


def test_the_interval_is_the_percentile_bootstrap_of_an_obvious_loop() -> None:
    rows = scored(1, 9)
    for one in metrics(rows):
        spread = [mean(one.name, [rows[i] for i in draw]) for draw in draws(9)]
        assert len(spread) == RESAMPLES
        assert (one.low, one.high) == pytest.approx(tuple(np.nanquantile(spread, [0.025, 0.975])), rel=1e-9)


def test_the_difference_resamples_both_models_together() -> None:
    base, tuned = scored(2, 11), scored(3, 11, exact=0.8)
    for one in compare(base, tuned):
        spread = [
            mean(one.name, [tuned[i] for i in draw]) - mean(one.name, [base[i] for i in draw]) for draw in draws(11)
        ]
        assert (one.low, one.high) == pytest.approx(tuple(np.nanquantile(spread, [0.025, 0.975])), rel=1e-9)
        assert one.base == pytest.approx(mean(one.name, base))
        assert one.adapter == pytest.approx(mean(one.name, tuned))
        assert one.difference == pytest.approx(one.adapter - one.base)


def test_a_model_compared_with_itself_differs_by_exactly_nothing() -> None:
    rows = scored(4, 30)
    assert [(one.difference, one.low, one.high) for one in compare(rows, rows)] == [(0.0, 0.0, 0.0)] * 4


def test_a_row_hard_for_both_does_not_widen_the_interval() -> None:
    base = scored(5, 50)
    tuned = [RowScore(r.loss_sum - 0.1 * r.supervised, r.supervised, "a", r.exact, r.fields) for r in base]
    loss = next(one for one in compare(base, tuned) if one.name == "loss")
    assert (loss.low, loss.high) == pytest.approx((-0.1, -0.1), abs=1e-9)
    alone = next(one for one in metrics(base) if one.name == "loss")
    assert alone.high - alone.low > 0.1


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    truth, hits, runs = 0.3, 0, 200
    source = np.random.default_rng(7)
    for _ in range(runs):
        right = source.random(80) < truth
        rows = [RowScore(1.0, 1, "a", bool(value), None) for value in right]
        exact = next(one for one in metrics(rows) if one.name == "exact")
        hits += exact.low <= truth <= exact.high
    assert 0.88 <= hits / runs <= 0.99


def test_pieces_of_resamples_cover_all_and_are_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert draws(7).shape == (RESAMPLES, 7)
    assert np.array_equal(draws(7), draws(7))
    assert set(np.unique(draws(7))) == set(range(7))
    whole = metrics(scored(8, 7))
    monkeypatch.setattr(statistics, "DRAWN_AT_ONCE", 64)
    assert draws(7).shape == (RESAMPLES, 7)
    assert [one.value for one in metrics(scored(8, 7))] == [one.value for one in whole]
    assert sum(len(piece) for piece in statistics._draws(10**6 * 7 // 10**6)) == RESAMPLES


def test_memory_does_not_grow_with_rows_times_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 100)
    rows = scored(9, 20_000, answers=False)
    tracemalloc.start()
    metrics(rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6  # all resamples at once: 100 x 20,000 x 8 bytes x 3 = 48 MB, and 1.9 GB for 4,000


def test_rows_without_answers_have_loss_only() -> None:
    assert [one.name for one in metrics(scored(0, 5, answers=False))] == ["loss", "perplexity"]


def test_rows_without_an_answer_do_not_count_among_those_with_one() -> None:
    rows = [RowScore(1.0, 2, "a", True, None), RowScore(3.0, 2, None, None, None), RowScore(0.0, 2, "b", False, None)]
    found = {one.name: one.value for one in metrics(rows)}
    assert found["exact"] == 0.5
    assert found["loss"] == pytest.approx(4 / 6)
    assert "fields" not in found


def test_without_any_supervised_token_there_is_no_loss_to_report() -> None:
    rows = [RowScore(0.0, 0, "a", True, None)] * 3
    assert [one.name for one in metrics(rows)] == ["exact"]


def test_a_single_row_has_a_point_for_an_interval() -> None:
    for one in metrics(scored(0, 1)):
        assert one.low == pytest.approx(one.value)
        assert one.high == pytest.approx(one.value)


def test_unequal_rows_are_refused() -> None:
    with pytest.raises(DataError, match="3 rows scored with the base and 2 with the adapter"):
        compare(scored(0, 3), scored(0, 2))
    with pytest.raises(DataError):
        compare([], [])
