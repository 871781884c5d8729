"""Means, intervals and differences of a comparison, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from veneer.comparison.order import RunOutcome
from veneer.comparison.summary import charts, differences, figure, summarize
from veneer.comparison.task import MeasuredRun
from veneer.evaluation.scoring import RowScore
from veneer.evaluation.statistics.compare import compare, measures_of


def scores(seed: int, shift: float = 0.0, rows: int = 30) -> list[RowScore]:
    source = np.random.default_rng(seed)
    return [
        RowScore(
            float(source.uniform(1, 4) + shift) * 10, 10, None, bool(source.integers(2)), float(source.uniform(0, 1))
        )
        for _ in range(rows)
    ]


def outcome(method: str, seed: int, rows: list[RowScore], **more: float) -> RunOutcome:
    loss = sum(row.loss_sum for row in rows) / sum(row.supervised for row in rows)
    return RunOutcome(
        method, seed, {"loss": loss, **more}, rows, trainable=5, seconds=10.0 + seed, peak_memory_mb=100.0
    )


def test_an_interval_is_students() -> None:
    # Hand-computed: mean 2, standard deviation 1, t(0.975, 2) = 4.3027, over sqrt(3).
    three = figure([1.0, 2.0, 3.0])
    assert (three.mean, three.low, three.high) == pytest.approx((2.0, 2 - 2.48417, 2 + 2.48417), abs=1e-4)
    two = figure([1.0, 2.0])
    assert two.high == pytest.approx(1.5 + 12.7062 * 0.5, abs=1e-4)
    assert (figure([4.0]).mean, figure([4.0]).low) == (4.0, None)
    many = figure([0.0, 1.0] * 50)
    assert many.high == pytest.approx(0.5 + 1.98422 * 0.50252 / 10, abs=1e-4)


def test_the_interval_of_a_share_ends_where_shares_do() -> None:
    assert figure([0.9, 1.0, 1.0], share=True).high == 1.0
    assert figure([0.0, 0.02, 0.01], share=True).low == 0.0
    assert figure([0.9, 1.0, 1.0]).high > 1.0


def test_a_method_is_summed_up_over_its_seeds() -> None:
    made = [outcome("base", 0, scores(9)), *(outcome("lora", seed, scores(seed), bleu=seed) for seed in range(3))]
    base, lora = summarize(made)
    assert (base.method, lora.method, lora.seeds) == ("base", "lora", [0, 1, 2])
    assert lora.metrics["bleu"] == figure([0, 1, 2])
    assert lora.seconds.mean == 11.0
    assert base.metrics["loss"].low is None
    partial = summarize([made[1], outcome("lora", 5, scores(5))])
    assert partial[0].metrics.keys() == {"loss"}


def run(method: str, seed: int, rows: list[RowScore]) -> MeasuredRun:
    return MeasuredRun(outcome(method, seed, rows), measures_of(rows), {})


def test_differences_are_taken_seed_by_seed_over_seeds_and_rows() -> None:
    full = [scores(seed) for seed in (1, 2)]
    lora = [scores(seed, shift=0.3) for seed in (1, 2)]
    made = [run("full", index, rows) for index, rows in enumerate(full)]
    made += [run("lora", index, rows) for index, rows in enumerate(lora)]
    found = differences(made)
    assert [(one.method, one.reference, one.values.name) for one in found] == [
        ("lora", "full", "exact"), ("lora", "full", "fields"), ("lora", "full", "loss"),
    ]  # fmt: skip
    loss = found[-1].values
    assert (loss.difference, loss.low, loss.high) == pytest.approx((0.3, 0.3, 0.3))
    exact = found[0].values
    assert exact.base == pytest.approx(np.mean([float(row.exact or 0) for rows in full for row in rows]))
    # Equal answers to thirty rows do not mean equal answers to all.
    assert exact.difference == 0.0
    assert exact.low == pytest.approx(-exact.high)
    assert exact.low < 0.0
    assert differences([made[0]]) == []


def test_one_seed_is_compared_by_its_rows_and_seeds_that_one_method_lacks_are_left_out() -> None:
    full, lora = scores(1), scores(2, shift=0.3)
    expected = [row for row in compare(full, lora) if row.name != "perplexity"]
    alone = [run("full", 0, full), run("lora", 0, lora)]
    assert [one.values for one in differences(alone)] == expected
    more = [*alone, run("lora", 1, scores(5)), run("full", 2, scores(6))]
    assert [one.values for one in differences(more)] == expected
    assert differences([run("full", 0, full), run("lora", 1, lora)]) == []


def test_a_dot_stands_for_every_run_and_none_for_the_base() -> None:
    made = [outcome("base", 0, scores(9), exact=0.0)]
    assert charts(made) == {}
    made += [outcome(name, seed, scores(seed), exact=0.5) for name in ("full", "lora") for seed in range(3)]
    found = charts(made)
    assert found.keys() == {"loss-memory.svg", "loss-time.svg", "exact-memory.svg", "exact-time.svg"}
    assert all(svg.count("<circle") == 6 for svg in found.values())
