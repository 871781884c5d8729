from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from veneer.errors import DataError
from veneer.evaluation.scoring import RowScore
from veneer.evaluation.statistics import resampling
from veneer.evaluation.statistics.compare import (
    Comparison,
    Metric,
    adjusted,
    compare,
    contrast,
    contrast_seeds,
    describe,
    measures_of,
)
from veneer.evaluation.statistics.measures import mean_of, numbered, scale_of
from veneer.evaluation.statistics.resampling import RESAMPLES, draws, ends
from veneer.evaluation.statistics.seeds import seeds_by_rows
from veneer.evaluation.statistics.shares import mcnemar, tango, wilson


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


def metrics(rows: list[RowScore], clusters: NDArray[np.int64] | None = None) -> list[Metric]:
    return describe(measures_of(rows), clusters)


def mean(name: str, rows: list[RowScore]) -> float:
    """The measure, written out."""
    if name in ("loss", "perplexity"):
        value = sum(row.loss_sum for row in rows) / sum(row.supervised for row in rows)
        return math.exp(value) if name == "perplexity" else value
    values = [row.exact if name == "exact" else row.fields for row in rows]
    present = [float(value) for value in values if value is not None]
    return sum(present) / len(present) if present else math.nan


def resamples(count: int) -> list[list[int]]:
    """The rows of every resample, one by one."""
    held = np.concatenate(list(draws(count)))
    return [[row for row, times in enumerate(one) for _ in range(int(times))] for one in held]


def test_measures_are_these_and_in_this_order() -> None:
    rows = scored(0, 12)
    found = metrics(rows)
    assert [one.name for one in found] == ["exact", "fields", "loss", "perplexity"]
    for one in found:
        assert one.value == pytest.approx(mean(one.name, rows), rel=1e-12)
        assert one.low <= one.value <= one.high
    by_name = {one.name: one for one in found}
    assert by_name["perplexity"].low == pytest.approx(math.exp(by_name["loss"].low))


def test_no_perplexity_of_a_few_rows_reaches_below_0() -> None:
    for count in (2, 3, 4):
        by_name = {one.name: one for one in metrics(scored(5, count))}
        ends_of_loss = (by_name["loss"].low, by_name["loss"].high)
        assert (by_name["perplexity"].low, by_name["perplexity"].high) == pytest.approx(np.exp(ends_of_loss))


def test_a_share_has_wilsons_interval() -> None:
    rows = scored(1, 40)
    exact = metrics(rows)[0]
    right = sum(bool(row.exact) for row in rows)
    assert (exact.interval, exact.low, exact.high) == ("Wilson", *map(float, wilson(right, 40)))


def test_everything_else_has_the_bootstrap_of_an_obvious_loop() -> None:
    rows = scored(1, 9)
    for one in metrics(rows)[1:]:
        spread = [mean(one.name, [rows[i] for i in draw]) for draw in resamples(9)]
        assert len(spread) == RESAMPLES
        expected = np.exp(ends(np.log(spread), 9)) if one.name == "perplexity" else ends(np.array(spread), 9)
        assert (one.low, one.high) == pytest.approx(expected, rel=1e-9)
        assert one.interval == "bootstrap over rows"


def test_the_difference_of_shares_has_tangos_interval_and_mcnemars_p() -> None:
    base, tuned = scored(2, 60), scored(3, 60, exact=0.8)
    exact = compare(base, tuned)[0]
    gained = sum(bool(t.exact and not b.exact) for b, t in zip(base, tuned, strict=True))
    lost = sum(bool(b.exact and not t.exact) for b, t in zip(base, tuned, strict=True))
    assert (exact.low, exact.high) == tuple(map(float, tango(gained, lost, 60)))
    assert (exact.interval, exact.p) == ("Tango", mcnemar(gained, lost))


def test_the_difference_resamples_both_models_together() -> None:
    base, tuned = scored(2, 11), scored(3, 11, exact=0.8)
    for one in compare(base, tuned):
        assert one.base == pytest.approx(mean(one.name, base))
        assert one.adapter == pytest.approx(mean(one.name, tuned))
        assert one.difference == pytest.approx(one.adapter - one.base)
        if one.name == "exact":
            continue
        pairs = [(mean(one.name, [base[i] for i in d]), mean(one.name, [tuned[i] for i in d])) for d in resamples(11)]
        spread = np.array([after - before for before, after in pairs])
        assert (one.low, one.high) == pytest.approx(ends(spread, 11), rel=1e-9)
        if one.name == "perplexity":
            logs = np.array([math.log(after) - math.log(before) for before, after in pairs])
            expected = (one.adapter / one.base, *(math.exp(end) for end in ends(logs, 11)))
            assert one.ratio == pytest.approx(expected)
        else:
            assert one.ratio is None


def test_a_model_compared_with_itself_differs_by_nothing_and_a_share_keeps_its_doubt() -> None:
    rows = scored(4, 30)
    found = compare(rows, rows)
    assert [one.difference for one in found] == [0.0] * 4
    assert [(one.low, one.high) for one in found[2:]] == [(0.0, 0.0)] * 2
    for one in found[:2]:
        assert (one.low, one.high) == tuple(map(float, tango(0, 0, 30)))
        assert one.p == 1.0


def test_rows_in_clusters_are_resampled_by_clusters() -> None:
    """The same twenty rows ten times over: naive intervals would be three times too narrow."""
    base, tuned = scored(6, 20), scored(7, 20, exact=0.9)
    clusters = numbered(list(range(20)) * 10)
    once, often = compare(base, tuned), compare(base * 10, tuned * 10, clusters)
    for single, many in zip(once, often, strict=True):
        assert many.difference == pytest.approx(single.difference)
        assert many.interval == "bootstrap over clusters"
        if single.name != "exact":
            assert (many.low, many.high) == pytest.approx((single.low, single.high))
    naive = compare(base * 10, tuned * 10)
    assert often[2].high - often[2].low > 2.5 * (naive[2].high - naive[2].low)
    assert {one.interval for one in metrics(base * 10, clusters)} == {"bootstrap over clusters"}


def test_several_adapters_are_one_mean_over_seeds_and_rows() -> None:
    base, seeds = scored(8, 40), [scored(9 + seed, 40, exact=0.8) for seed in range(3)]
    found = contrast(measures_of(base), [measures_of(one) for one in seeds])
    for place, one in enumerate(found):
        expected = seeds_by_rows(
            [measures_of(base)[place]] * len(seeds), [measures_of(scores)[place] for scores in seeds]
        )
        assert (one.difference, one.low, one.high, one.p) == (
            expected.difference, expected.low, expected.high, expected.p,
        )  # fmt: skip
        assert one.adapter == pytest.approx(np.mean([mean(one.name, scores) for scores in seeds]))
        assert one.interval == "Student over seeds × rows"
    assert found[3].ratio is not None
    assert found[3].ratio[0] == pytest.approx(
        math.exp(np.mean([math.log(mean("perplexity", one)) for one in seeds]) - math.log(mean("perplexity", base)))
    )


def test_the_interval_of_few_seeds_ends_where_shares_do() -> None:
    careless = [mean_of("exact", [0.0] * (20 - right) + [1.0] * right) for right in (0, 1, 18)]
    careful = [mean_of("exact", [1.0] * 20)] * 3
    (found,) = contrast_seeds([[one] for one in careless if one], [[one] for one in careful if one])
    student = seeds_by_rows([one for one in careless if one], [one for one in careful if one])
    assert student.high > 1.0
    assert (found.low, found.high) == (max(student.low, -1.0), 1.0)


def test_the_primary_measure_is_tested_alone_and_the_others_together() -> None:
    found = [Comparison(name, 0, 0, 0, 0, 0, p=p) for name, p in (("exact", 0.04), ("fields", 0.01), ("loss", 0.03))]
    assert [one.holm for one in adjusted(found, None)] == [None, 0.02, 0.03]
    assert [one.holm for one in adjusted(found, "loss")] == [0.04, 0.02, None]
    assert adjusted([], None) == []


def test_what_rescales_the_loss_is_no_test_of_its_own_and_has_the_p_of_the_loss() -> None:
    named = (("exact", 0.04), ("fields", 0.01), ("loss", 0.03), ("perplexity", 0.03), ("bits_per_byte", 0.029))
    found = [Comparison(name, 0, 0, 0, 0, 0, p=p) for name, p in named]
    assert [one.holm for one in adjusted(found, None)] == [None, 0.02, 0.03, 0.03, 0.03]
    assert [one.holm for one in adjusted(found, "loss")] == [0.04, 0.02, None, None, None]
    crowded = [*found[:1], *(Comparison(f"m{n}", 0, 0, 0, 0, 0, p=0.02) for n in range(4)), *found[2:]]
    assert [one.holm for one in adjusted(crowded, None)][-3:] == [0.1] * 3


def test_a_gain_is_above_zero_where_the_adapter_is_better() -> None:
    assert Comparison("exact", 0.5, 0.6, 0.1, 0.05, 0.2).gain == (0.1, 0.05, 0.2)
    assert Comparison("loss", 2.0, 1.5, -0.5, -0.7, -0.2).gain == (0.5, 0.2, 0.7)


def test_bits_per_byte_stand_where_bytes_were_counted() -> None:
    rows = [RowScore(7.0, 4, "a", 1.0, None, bytes=10), RowScore(1.0, 2, None, None, None, bytes=3)]
    found = {one.name: one.value for one in metrics(rows)}
    assert found["bits_per_byte"] == pytest.approx(8.0 / (math.log(2) * 13))
    assert "bits_per_byte" not in {one.name for one in metrics([*rows, RowScore(1.0, 2, None, None, None)])}


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


def test_memory_does_not_grow_with_rows_times_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "RESAMPLES", 100)
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


def test_a_single_row_or_cluster_says_nothing_of_others() -> None:
    base, adapter = [RowScore(4.0, 2, "a", 1.0, None)], [RowScore(1.0, 2, "a", 1.0, None)]
    rows = {one.name: one for one in metrics(base)}
    assert (rows["exact"].low, rows["exact"].high) == tuple(map(float, wilson(1, 1)))
    assert (rows["loss"].value, rows["loss"].low, rows["loss"].high) == (2.0, -math.inf, math.inf)
    found = {one.name: one for one in compare(base, adapter)}
    assert (found["loss"].difference, found["loss"].low, found["loss"].high) == (-1.5, -math.inf, math.inf)
    assert found["perplexity"].ratio == pytest.approx((math.exp(-1.5), 0.0, math.inf))
    one_cluster = {one.name: one for one in compare(base * 9, adapter * 9, numbered(["x"] * 9))}
    assert (one_cluster["loss"].low, one_cluster["loss"].p) == (-math.inf, 1.0)
    # Nor do many rows of which one counts, or several seeds on one row.
    values = [None, 3.0, None, None]
    (metric,) = describe([one for one in [mean_of("own", values, scale=None)] if one])
    assert (metric.value, metric.low, metric.high) == (3.0, -math.inf, math.inf)
    lower = [RowScore(1.2, 2, "a", 1.0, None)]
    seeds = {one.name: one for one in contrast(measures_of(base), [measures_of(adapter), measures_of(lower)])}
    assert (seeds["loss"].low, seeds["loss"].high, seeds["loss"].p) == (-math.inf, math.inf, 1.0)


def test_the_p_of_seeds_that_agree_on_every_row_is_that_of_so_many_coins() -> None:
    base, tuned = mean_of("exact", [0.0, 0.0, 0.0]), mean_of("exact", [1.0, 1.0, 1.0])
    assert base is not None
    assert tuned is not None
    (found,) = contrast([base], [[tuned], [tuned]])
    assert (found.low, found.high) == tuple(map(float, tango(3, 0, 3)))
    assert found.low < 0 < found.high
    assert found.p == 0.25


@pytest.mark.parametrize("value", [1 / 7, 0.1, 0.5])
def test_equal_rows_leave_the_doubt_of_rows_that_were_not_drawn_whatever_their_last_digits(value: float) -> None:
    """Sums of 1/7 over resamples differ in their last digits; such an interval was a point, and a half's was not."""
    base, tuned = mean_of("rouge_l", [value] * 30), mean_of("rouge_l", [1.0 - value / 3] * 30)
    assert base is not None
    assert tuned is not None
    (alone,) = describe([base])
    assert (alone.low, alone.high) == pytest.approx(tuple(map(float, wilson(value * 30, 30))))
    expected = tuple(map(float, tango((1 - value * 4 / 3) * 30, 0, 30)))
    for adapters in ([[tuned]], [[tuned], [tuned]]):
        (found,) = contrast([base], adapters)
        assert (found.low, found.high) == pytest.approx(expected)
        assert found.interval == "Tango"
    assert found.p == 2.0**-29


@pytest.mark.parametrize(
    ("base", "tuned"),
    [
        ([0.7] * 8, [0.7] * 8), ([0.7] * 8, [0.6] * 8), ([1.0] * 9, [1.0] * 8 + [0.0]), ([0.0, 1.0] * 5, [1.0] * 10),
        ([0.2, 0.9, 1.0], [0.2, 0.8, 0.9]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("clustered", [False, True])
def test_scores_in_percent_have_the_intervals_of_the_shares_that_they_are(
    base: list[float], tuned: list[float], clustered: bool
) -> None:
    clusters = numbered([place // 2 for place in range(len(base))]) if clustered else None

    def intervals(times: float) -> list[float]:
        models = []
        for values in (base, tuned, tuned):
            scaled = [times * value for value in values]
            models.append([one for one in [mean_of("own", scaled, scale=scale_of(scaled))] if one])
        alone = describe(models[0], clusters)[0]
        pairs = [contrast(models[0], models[1:last], clusters)[0] for last in (2, 3)]
        return [end / times for one in (alone, *pairs) for end in (one.low, one.high)]

    assert intervals(100.0) == pytest.approx(intervals(1.0), abs=1e-9)


def test_unequal_rows_are_refused() -> None:
    with pytest.raises(DataError, match="3 rows scored with the base and 2 with the adapter"):
        compare(scored(0, 3), scored(0, 2))
    with pytest.raises(DataError, match="0 rows scored with the base"):
        compare([], [])


def test_the_loss_is_no_second_test_where_what_rescales_it_is_the_primary_measure() -> None:
    base, adapter = (measures_of(scored(seed, 40, exact=share)) for seed, share in enumerate((0.3, 0.6)))
    by_loss = {one.name: one.holm for one in contrast(base, [adapter], primary="loss")}
    by_perplexity = {one.name: one.holm for one in contrast(base, [adapter], primary="perplexity")}
    assert (by_perplexity["loss"], by_perplexity["perplexity"]) == (None, None)
    assert by_perplexity["exact"] == by_loss["exact"]


@pytest.mark.parametrize("rows", [4, 40])
@pytest.mark.filterwarnings("error")
def test_a_perplexity_that_is_infinite_has_ends_and_is_worse(rows: int) -> None:
    base, bad = (
        measures_of([RowScore(loss * 10.0 * (1 + n / rows), 10, None, None, None) for n in range(rows)])
        for loss in (2.0, 800.0)
    )
    found = {one.name: one for one in contrast(base, [bad])}["perplexity"]
    assert (found.low, found.high, found.adapter) == (math.inf,) * 3
    assert found.gain[2] == -math.inf
    described = {one.name: one for one in describe(bad)}["perplexity"]
    assert (described.low, described.high) == (math.inf, math.inf)
    some = measures_of([RowScore(10.0 * (600.0 + 200.0 * (n % 2)), 10, None, None, None) for n in range(rows)])
    mixed = {one.name: one for one in describe(some)}["perplexity"]
    assert mixed.low < math.inf
    assert mixed.high == math.inf
    for measures in (contrast(bad, [bad]), contrast(base, [bad, bad]), contrast(bad, [bad, some])):
        assert measures
