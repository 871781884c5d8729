"""All rewards of a run together: each judges every answer, and their failures are handled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from veneer.data.problems import RowProblem, grouped
from veneer.enums import OnRewardError
from veneer.errors import DataError, listing
from veneer.rewards.base import AnswerReward, AnswerToJudge, RewardFailed

MOST_IN_A_ROW = 16
"""The number of consecutive answers on which a reward may fail before the run ends: it is broken then, and every
further answer may take the reward's whole time limit."""
LARGEST = 1e30
"""The largest size of a reward times its weight. Sums and squares of larger ones are no longer finite."""


@dataclass(frozen=True, slots=True)
class WeighedReward:
    """A reward of a run, with its weight."""

    name: str
    reward: AnswerReward
    weight: float = 1.0
    on_error: OnRewardError = OnRewardError.END
    """What happens to an answer on which it fails."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A reward that failed on an answer."""

    answer: int
    """The place of the answer among the judged ones."""
    reward: str
    text: str
    """The answer, and the reason."""
    whole_group: bool
    """Whether all answers to its prompt are left out with it."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """The results of rewards for some answers."""

    names: tuple[str, ...]
    values: NDArray[np.float64]
    """[answers, rewards]; NaN if a reward gives no score."""
    totals: NDArray[np.float64]
    """The weighted sum of the rewards that give a score, [answers]; NaN if none does, or if one has failed."""
    failures: tuple[Failure, ...]
    retried: tuple[str, ...] = ()
    """Rewards that failed on several answers together but on none of them alone, and why."""


class Judge:
    """The rewards of a run.

    Args:
        rewards: the rewards, each with a unique name.
    """

    def __init__(self, rewards: Sequence[WeighedReward]):
        self._rewards = rewards

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the rewards."""
        return tuple(one.name for one in self._rewards)

    def joined_by(self, rewards: Sequence[WeighedReward]) -> Judge:
        """All rewards of this judge, and others. Closing either closes the rewards that both have."""
        return Judge([*self._rewards, *rewards])

    def check(self, *sides: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse rows whose answers a reward cannot judge: all of them at once, before any reward is called.

        Args:
            sides: the rows for training, and those for evaluation: the place of each row, and its columns.

        Raises:
            DataError: a reward cannot judge some rows and its failure ends the run, or it cannot judge any row of a
                side.
        """
        problems: list[RowProblem] = []
        some = True
        for one in self._rewards:
            for rows in sides:
                reasons = one.reward.refusals(list(rows.values()))
                told = f"the reward {one.name} cannot judge any answer: "
                found = [
                    RowProblem(where, told + why) for where, why in zip(rows, reasons, strict=True) if why is not None
                ]
                if found and (one.on_error is OnRewardError.END or len(found) == len(rows)):
                    problems += found
                    some = some and len(found) < len(rows)
        if problems:
            remedy = "\non_error: skip_row, or skip_group, leaves the answers to such rows out" if some else ""
            raise DataError(f"the rows lack what rewards need:\n{grouped(problems)}{remedy}")

    def judged(self, answers: Sequence[AnswerToJudge]) -> Judged:
        """The results of all rewards for these answers.

        A reward that fails on several answers is called again for halves of them, so that the failing answers are
        identified and the others keep their rewards.

        Raises:
            DataError: a reward failed and its failure ends the run, or it failed on MOST_IN_A_ROW consecutive answers.
            RewardsStopped: a signal came.
        """
        values = np.full((len(answers), len(self._rewards)), np.nan)
        failures: list[Failure] = []
        retried: list[str] = []
        for column, one in enumerate(self._rewards):
            failed_in_a_row, before, together = 0, len(failures), list[str]()
            for place, found in enumerate(_each(one, answers, together)):
                if found is not None and not isinstance(found, RewardFailed) and abs(found * one.weight) > LARGEST:
                    found = RewardFailed(
                        f"it gave {found:g}; times its weight, a reward is at most {LARGEST:g} in size"
                    )
                failed_in_a_row = failed_in_a_row + 1 if isinstance(found, RewardFailed) else 0
                if not isinstance(found, RewardFailed):
                    values[place, column] = np.nan if found is None else found
                    continue
                failures.append(_failure(one, answers[place], place, found))
                if one.on_error is OnRewardError.END or failed_in_a_row == MOST_IN_A_ROW:
                    raise _ending(one, failures[-failed_in_a_row:])
            if together and len(failures) == before:
                retried.append(f"{one.name}: {together[0]}")
        weights = np.array([one.weight for one in self._rewards])
        totals = np.where(np.isnan(values), 0.0, values) @ weights
        totals[np.isnan(values).all(axis=1)] = np.nan
        totals[[failure.answer for failure in failures]] = np.nan
        return Judged(self.names, values, totals, tuple(failures), tuple(retried))

    def close(self) -> None:
        """End what the rewards have started."""
        for one in self._rewards:
            one.reward.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _each(
    one: WeighedReward, answers: Sequence[AnswerToJudge], together: list[str]
) -> Iterator[float | RewardFailed | None]:
    """The result of a reward for each answer, in order, or why it has none; `together` gets the reasons of its failures
    on several answers."""
    if not answers:
        return
    try:
        found = one.reward.values(answers)
    except RewardFailed as error:
        if len(answers) == 1:
            yield error
            return
        together.append(f"called for {len(answers)} answers, {error}")
        middle = len(answers) // 2
        yield from _each(one, answers[:middle], together)
        yield from _each(one, answers[middle:], together)
        return
    yield from found


def _failure(one: WeighedReward, answer: AnswerToJudge, place: int, error: RewardFailed) -> Failure:
    text = f"{answer.where}, answer {answer.number + 1}: {error}"
    return Failure(place, one.name, text, one.on_error is OnRewardError.SKIP_GROUP)


def _ending(one: WeighedReward, failures: Sequence[Failure]) -> DataError:
    many = f" on {len(failures)} consecutive answers" if len(failures) > 1 else ""
    remedy = "" if many else "; on_error: skip_row, or skip_group, leaves such answers out"
    return DataError(f"the reward {one.name} failed{many}:\n{listing([one.text for one in failures])}{remedy}")
