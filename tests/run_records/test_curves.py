"""Curves keep what a person looks for: the ends, the spikes, and the places where a loss was no number."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest

from helpers.run_folders.run_logs import evaluated, started, step_done
from veneer.event_log import EventLog
from veneer.run_records.curves import Along, curve_of, thinned
from veneer.run_records.log import RunLog


@pytest.mark.parametrize("seed", range(5))
def test_thinning_keeps_every_spike_the_ends_and_the_order(seed: int) -> None:
    source = np.random.default_rng(seed)
    values = source.normal(size=100_000)
    spikes = source.choice(100_000, 20, replace=False)
    values[spikes] += source.choice([-1, 1], 20) * 50
    kept = thinned(values, 2_000)
    assert len(kept) <= 2_000
    assert np.all(np.diff(kept) > 0)
    assert {0, 99_999} <= set(kept.tolist())
    # Of two spikes upward in one stretch the higher one stays, and so does the whole extent.
    assert values[kept].max() == values.max()
    assert values[kept].min() == values.min()
    assert len(set(spikes.tolist()) & set(kept.tolist())) >= 18


def test_what_is_short_is_kept_whole_and_what_is_not_finite_is_seen() -> None:
    assert thinned([1.0, 2.0, 3.0], 8).tolist() == [0, 1, 2]
    values = [1.0] * 1_000
    values[333] = math.nan
    assert 333 in thinned(values, 50)
    assert thinned([math.nan] * 100, 8).size <= 8


def test_a_curve_is_drawn_along_steps_tokens_or_time(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as writer:
        for event in (started(4), step_done(1), step_done(2), evaluated(2, 1.5), step_done(3, math.nan), step_done(4)):
            writer.emit(event)
    log = RunLog(tmp_path / "events.jsonl")
    log.refresh()
    assert curve_of(log, "loss").x == [1.0, 2.0, 3.0, 4.0]
    assert curve_of(log, "loss").y[2] is None
    assert curve_of(log, "loss", along=Along.TOKENS).x == [100.0, 200.0, 300.0, 400.0]
    assert curve_of(log, "loss", along=Along.TIME).x == [0.5, 1.0, 1.5, 2.0]
    assert curve_of(log, "tokens_per_second").y == [200.0] * 4
    assert curve_of(log, "evaluation", along=Along.TOKENS).x == [200.0]
    with pytest.raises(KeyError):
        curve_of(log, "nothing")


def test_thinning_a_hundred_thousand_steps_takes_less_than_a_blink() -> None:
    values = [random.random() for _ in range(100_000)]
    assert len(thinned(values, 500)) <= 500
