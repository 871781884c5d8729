"""What a step knows of its sampled answers: metrics over those that have them, groups left out whole, pieces laid."""

from __future__ import annotations

import numpy as np
import pytest

from veneer.config import GrpoSection
from veneer.data.encoded.chat import Example
from veneer.rewards.judge import Failure, Judged
from veneer.training.rollouts.answers import SampledAnswer
from veneer.training.rollouts.steps import fill, laid, without_groups
from veneer.training.rollouts.table import RolloutTable

NAN = np.nan


def answer(length: int, *, truncated: bool = False) -> SampledAnswer:
    return SampledAnswer(tokens=(5,) * length, text="a", logprobs=np.zeros(length), truncated=truncated)


ANSWERS = [answer(2), answer(8, truncated=True), answer(4), answer(6)]


def filled(values: list[list[float]], **settings: object) -> RolloutTable:
    table = RolloutTable()
    known = np.array(values)
    totals = np.where(np.isnan(known).all(axis=1), NAN, np.nansum(known, axis=1))
    section = GrpoSection.model_validate({"num_generations": 2, "max_completion_length": 8, **settings})
    fill(table, section, ANSWERS, Judged(("a", "b"), known, totals, ()), totals)
    return table


def test_a_reward_without_an_opinion_is_in_no_mean() -> None:
    table = filled([[1.0, NAN], [3.0, 2.0], [NAN, NAN], [4.0, NAN]])
    means = {name: float(np.nanmean(values)) for name, values in table.metrics.items()}
    assert means["reward"] == pytest.approx((1 + 5 + 4) / 3)
    assert means["rewards/a/mean"] == pytest.approx(8 / 3)
    assert means["rewards/b/mean"] == 2.0
    assert "rewards/b/std" not in table.metrics, "of one value there is none"
    assert means["rewards/a/std"] == pytest.approx(np.std([1, 3, 4], ddof=1))
    assert table.counted.tolist() == [True, True, False, True]
    assert table.advantages[2] == table.advantages[3] == 0.0, "an answer alone is compared with nothing"
    assert means["reward_std"] == pytest.approx(np.std([1, 5], ddof=1)), "of groups with two rewards"
    assert means["completions/mean_length"] == 5.0
    assert means["completions/mean_terminated_length"] == 4.0
    assert means["completions/clipped_ratio"] == 0.25
    assert (means["completions/min_length"], means["completions/max_length"]) == (2.0, 8.0)


def test_a_reward_that_never_has_an_opinion_is_reported_nowhere() -> None:
    table = filled([[1.0, NAN], [1.0, NAN], [2.0, NAN], [4.0, NAN]])
    assert not any(name.startswith("rewards/b") for name in table.metrics)
    assert float(np.mean(table.metrics["frac_reward_zero_std"])) == 0.5


def test_truncated_answers_may_be_left_out_of_the_loss_and_stay_in_the_baseline() -> None:
    values = [[1.0, 0.0], [3.0, 0.0], [2.0, 0.0], [4.0, 0.0]]
    masked, plain = filled(values, mask_truncated_completions=True), filled(values)
    assert masked.counted.tolist() == [True, False, True, True]
    assert plain.counted.all()
    assert masked.advantages.tolist() == plain.advantages.tolist()


def test_the_sampler_is_compared_at_the_same_temperature_alone() -> None:
    values = [[1.0, 0.0]] * 4
    assert filled(values).sampled is not None
    assert filled(values, temperature=0.7).sampled is None


def test_a_failure_leaves_out_its_answer_or_its_group() -> None:
    totals = np.array([1.0, NAN, 3.0, 4.0, NAN, 6.0])
    failures = (Failure(1, "a", "f:1", whole_group=False), Failure(4, "a", "f:3", whole_group=True))
    judged = Judged(("a",), totals[:, None], totals, failures)
    np.testing.assert_array_equal(without_groups(judged, 2), [1.0, NAN, 3.0, 4.0, NAN, NAN])


def test_answers_to_one_prompt_count_the_prompt_once() -> None:
    tokens = np.arange(7, dtype=np.int32)
    answers = [Example(tokens, np.arange(7) >= 4, "f"), Example(tokens[:5], np.arange(5) >= 4, "f")]
    assert laid(answers) == 7 + 1
