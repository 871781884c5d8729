from __future__ import annotations

import math

import pytest

from veneer.enums import Schedule
from veneer.training.rate_schedule import RateSchedule


def rates(shape: Schedule, *, steps: int = 20, warmup: float = 0.0, end: float = 0.0) -> list[float]:
    schedule = RateSchedule(peak=2.0, steps=steps, warmup=warmup, shape=shape, end=end)
    return [schedule.at(step) for step in range(1, steps + 1)]


@pytest.mark.parametrize("shape", list(Schedule))
def test_without_warmup_the_first_step_has_the_peak(shape: Schedule) -> None:
    assert rates(shape)[0] == 2.0


@pytest.mark.parametrize("shape", list(Schedule))
@pytest.mark.parametrize(("warmup", "rising"), [(0.03, 1), (0.1, 2), (0.5, 10), (0.99, 20)])
def test_the_warmup_rises_evenly_from_above_zero_to_below_the_peak(shape: Schedule, warmup: float, rising: int) -> None:
    found = rates(shape, warmup=warmup)[:rising]
    assert found == pytest.approx([2.0 * n / (rising + 1) for n in range(1, rising + 1)])
    assert all(0 < rate < 2.0 for rate in found)
    if rising < 20:
        assert rates(shape, warmup=warmup)[rising] == 2.0


def test_the_falls_are_these_curves() -> None:
    assert rates(Schedule.LINEAR) == pytest.approx([2.0 * (1 - n / 20) for n in range(20)])
    assert rates(Schedule.COSINE) == pytest.approx([1 + math.cos(math.pi * n / 20) for n in range(20)])
    assert rates(Schedule.CONSTANT) == [2.0] * 20
    ended = rates(Schedule.LINEAR, end=0.25)
    assert ended == pytest.approx([2.0 * (0.25 + 0.75 * (1 - n / 20)) for n in range(20)])


@pytest.mark.parametrize("shape", list(Schedule))
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.03, 0.9])
def test_no_step_of_a_short_run_is_wasted(shape: Schedule, steps: int, warmup: float) -> None:
    found = rates(shape, steps=steps, warmup=warmup)
    assert len(found) == steps
    assert all(0 < rate <= 2.0 and math.isfinite(rate) for rate in found)
