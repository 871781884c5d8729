"""All rewards together: weighted sums over those that have an opinion, and failures named answer by answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from helpers.rows.judged_answers import answers
from veneer.enums import OnRewardError
from veneer.errors import DataError
from veneer.rewards.base import AnswerToJudge, RewardFailed
from veneer.rewards.judge import MOST_IN_A_ROW, Judge, WeighedReward


@dataclass
class Played:
    """A reward whose values are a function of texts; a value of infinity fails."""

    value: Callable[[str], float | None]
    asked: list[int] = field(default_factory=list)
    closed: bool = False

    def refusals(self, rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
        return [None if "answer" in columns else "there is no answer" for columns in rows]

    def values(self, answers: Sequence[AnswerToJudge]) -> list[float | None]:
        self.asked.append(len(answers))
        found = [self.value(answer.text) for answer in answers]
        if np.inf in found:
            raise RewardFailed("it does not like this")
        return found

    def close(self) -> None:
        self.closed = True


def on_bad(text: str) -> float | None:
    return np.inf if text.startswith("bad") else float(len(text))


def test_rewards_add_up_by_their_weights_and_none_is_not_zero() -> None:
    shout = Played(lambda text: None if text == "quiet" else 1.0)
    silent = Played(lambda text: None if text in ("quiet", "middle") else 4.0)
    judge = Judge([WeighedReward("shout", shout, 2.0), WeighedReward("silent", silent, -0.5)])
    found = judge.judged(answers("loud", "middle", "quiet"))
    assert found.names == judge.names == ("shout", "silent")
    np.testing.assert_array_equal(found.values, [[1.0, 4.0], [1.0, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(found.totals, [0.0, 2.0, np.nan])
    assert found.failures == ()
    assert shout.asked == [3], "one call, as long as nothing fails"


@pytest.mark.parametrize("weight", [1.0, -1e200])
def test_rewards_beyond_all_sums_fail_by_name(weight: float) -> None:
    """Their mean or their square would be infinite, and the loss NaN without a word of why."""
    huge = Played(lambda text: 1e308 / abs(weight) * len(text))
    with pytest.raises(DataError, match=rf"it gave 1e\+{308 if weight == 1.0 else 108}; times its weight, a reward is"):
        Judge([WeighedReward("huge", huge, weight)]).judged(answers("a", "b"))
    assert Judge([WeighedReward("large", Played(lambda _: 1e30))]).judged(answers("a")).totals.tolist() == [1e30]


@pytest.mark.parametrize("fate", [OnRewardError.SKIP_ROW, OnRewardError.SKIP_GROUP])
def test_answers_that_a_reward_fails_on_are_named_and_the_others_keep_theirs(fate: OnRewardError) -> None:
    reward = Played(on_bad)
    texts = ["a", "bad", "ccc", "dd", "eeee", "bad again", "f", "gg"]
    found = Judge([WeighedReward("liking", reward, 1.0, fate)]).judged(answers(*texts))
    np.testing.assert_array_equal(found.totals, [1.0, np.nan, 3.0, 2.0, 4.0, np.nan, 1.0, 2.0])
    assert [failure.answer for failure in found.failures] == [1, 5]
    assert found.failures[0].text == "rows.jsonl:2, answer 1: it does not like this"
    assert all(failure.whole_group is (fate is OnRewardError.SKIP_GROUP) for failure in found.failures)


def test_a_reward_that_is_to_end_the_run_is_asked_no_more_than_it_takes_to_name_the_answer() -> None:
    reward = Played(on_bad)
    texts = ["good"] * 20 + ["bad"] + ["good"] * 43
    with pytest.raises(DataError, match=r"the reward liking failed:\n.*rows.jsonl:21, answer 2: it does not like this"):
        Judge([WeighedReward("liking", reward)]).judged(answers(*texts))
    assert len(reward.asked) <= 2 * 6 + 1


def test_a_reward_that_fails_again_and_again_ends_the_run() -> None:
    reward = Played(on_bad)
    judge = Judge([WeighedReward("liking", reward, on_error=OnRewardError.SKIP_ROW)])
    with pytest.raises(DataError, match=f"failed on {MOST_IN_A_ROW} consecutive answers"):
        judge.judged(answers(*["bad"] * 64))
    assert len(reward.asked) < 3 * MOST_IN_A_ROW


def test_a_reward_that_fails_on_several_together_alone_is_told_of() -> None:
    """It gives one number whatever it is asked, say: each answer has one, and nobody would know."""

    class Single(Played):
        def values(self, some: Sequence[AnswerToJudge]) -> list[float | None]:
            if len(some) > 1:
                raise RewardFailed(f"it gave 1 rewards for {len(some)} answers")
            return super().values(some)

    found = Judge([WeighedReward("liking", Single(on_bad))]).judged(answers("a", "bc", "d"))
    assert found.values[:, 0].tolist() == [1.0, 2.0, 1.0]
    assert found.failures == ()
    assert found.retried == ("liking: called for 3 answers, it gave 1 rewards for 3 answers",)
    bad = Judge([WeighedReward("liking", Played(on_bad), on_error=OnRewardError.SKIP_ROW)])
    assert bad.judged(answers("good", "bad")).retried == (), "the answer is named"


def test_a_judge_closes_its_rewards() -> None:
    reward = Played(on_bad)
    with Judge([WeighedReward("liking", reward)]):
        pass
    assert reward.closed


ROWS = {f"f:{number}": {"answer": 1} if number % 2 else {} for number in range(1, 6)}


@pytest.mark.parametrize("on_error", OnRewardError)
def test_rows_that_a_reward_cannot_judge_are_refused_at_once_unless_such_answers_are_left_out(
    on_error: OnRewardError,
) -> None:
    judge = Judge([WeighedReward("played", Played(on_bad), on_error=on_error)])
    judge.check({where: columns for where, columns in ROWS.items() if columns})
    if on_error is not OnRewardError.END:
        judge.check(ROWS)
        return
    with pytest.raises(DataError) as error:
        judge.check(ROWS)
    assert "f:2: the reward played cannot judge any answer: there is no answer" in str(error.value)
    assert "(2 rows: f:2, f:4)" in str(error.value)
    assert "on_error: skip_row, or skip_group, leaves the answers to such rows out" in str(error.value)


@pytest.mark.parametrize("on_error", OnRewardError)
def test_a_reward_that_can_judge_no_row_is_refused_and_leaving_rows_out_is_no_remedy(on_error: OnRewardError) -> None:
    judge = Judge([WeighedReward("played", Played(on_bad), on_error=on_error)])
    with pytest.raises(DataError, match="cannot judge any answer") as error:
        judge.check({"f:1": {}, "f:2": {}})
    assert "skip_row" not in str(error.value)
    with pytest.raises(DataError, match=r"\n  - held:1: the reward played cannot judge any answer"):
        judge.check({"f:1": {"answer": 1}}, {"held:1": {}})
    judge.check({"f:1": {"answer": 1}}, {})
