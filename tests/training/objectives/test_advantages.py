"""Advantages against the formulas, with the deviations of statistics' own functions, and answers without rewards."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from veneer.formulas import Baseline, ScaleRewards
from veneer.training.objectives.advantages import EPSILON, advantages

REWARDS = np.random.default_rng(0).normal(size=12)
GROUPS = REWARDS.reshape(3, 4).tolist()


@pytest.mark.parametrize("scale", list(ScaleRewards))
@pytest.mark.parametrize("baseline", list(Baseline))
def test_advantages_are_those_of_the_formula(baseline: Baseline, scale: ScaleRewards) -> None:
    expected = []
    for group in GROUPS:
        for place, reward in enumerate(group):
            others = group[:place] + group[place + 1 :]
            off = statistics.fmean(group if baseline is Baseline.GROUP else others)
            by = {
                ScaleRewards.GROUP: statistics.stdev(group) + EPSILON,
                ScaleRewards.BATCH: statistics.stdev(REWARDS.tolist()) + EPSILON,
                ScaleRewards.NONE: 1.0,
            }[scale]
            expected.append((reward - off) / by)
    found = advantages(REWARDS, 4, baseline, scale)
    np.testing.assert_allclose(found.values, expected, rtol=1e-12)
    np.testing.assert_allclose(found.group_std, np.repeat([statistics.stdev(group) for group in GROUPS], 4), rtol=1e-12)


def test_an_answer_without_a_reward_is_in_no_mean() -> None:
    """None is not 0: the others are compared with each other, as if it had not been sampled."""
    with_gap = np.array([1.0, np.nan, 2.0, 4.0])
    found = advantages(with_gap, 4, Baseline.GROUP, ScaleRewards.NONE)
    np.testing.assert_allclose(found.values, [1 - 7 / 3, 0.0, 2 - 7 / 3, 4 - 7 / 3])
    assert found.group_std[0] == pytest.approx(statistics.stdev([1.0, 2.0, 4.0]))
    others = advantages(with_gap, 4, Baseline.LEAVE_ONE_OUT, ScaleRewards.NONE)
    np.testing.assert_allclose(others.values, [1 - 3.0, 0.0, 2 - 2.5, 4 - 1.5])


@pytest.mark.parametrize("baseline", list(Baseline))
def test_an_answer_alone_and_equal_rewards_have_the_advantage_zero(baseline: Baseline) -> None:
    alone = advantages(np.array([np.nan, 3.0, np.nan, np.nan]), 2, baseline, ScaleRewards.GROUP)
    assert alone.values.tolist() == [0.0] * 4
    assert all(math.isnan(value) for value in alone.group_std)
    equal = advantages(np.full(3, 0.1), 3, baseline, ScaleRewards.GROUP)  # whose mean is not 0.1 in floating point
    np.testing.assert_allclose(equal.values, np.zeros(3), atol=1e-12)
    assert equal.group_std.tolist() == [0.0] * 3, "exactly, so that groups without a signal are counted"
