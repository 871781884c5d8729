"""Sampling that is divided among processes: what they tell each other, and how all of them stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from preference_rows import trainable_model
from tiny import run_config, write_rows
from veneer.data.kinds import load_kind
from veneer.enums import RowKind
from veneer.events import Event, Level, Note, Subscriber, ignore
from veneer.generation.sampling import Sampling
from veneer.io.tokenizer import from_directory
from veneer.rewards.base import AnswerToJudge, RewardsStopped
from veneer.rewards.judge import Judge, WeighedReward
from veneer.training.parallel.group import Alone
from veneer.training.parallel.ranks import ALONE, Ranks
from veneer.training.rollouts.answers import SampledAnswer, SamplingStopped
from veneer.training.rollouts.sampler import READY, STOPPED, JudgedAnswers, Sampler, _answers, _numbers

Ask = Callable[..., JudgedAnswers]
SAMPLING = Sampling(max_new_tokens=4, seed=3, temperature=1.0)


class Told(Alone):
    """A group of a rank that is told what others have left, and remembers what it leaves."""

    def __init__(self, ranks: Ranks, told: dict[str, str]):
        self.ranks = ranks
        self.told = told
        self.left: dict[str, str] = {}

    def publish(self, key: str, text: str) -> None:
        self.left[key] = text

    def awaited(self, key: str) -> str:
        return self.told[key]


class Lengths:
    """Judges by the length of the answer; or a signal comes meanwhile."""

    def __init__(self, stopped: bool = False):
        self.stopped = stopped

    def values(self, answers: Sequence[AnswerToJudge]) -> list[float | None]:
        if self.stopped:
            raise RewardsStopped
        return [float(len(one.tokens)) for one in answers]

    def close(self) -> None:
        pass


class Silent(Lengths):
    """Has no opinion."""

    def values(self, answers: Sequence[AnswerToJudge]) -> list[float | None]:
        return [None] * len(answers)


@pytest.fixture
def ask(tiny_model: Path, tmp_path: Path) -> Ask:
    """Asks three prompts twice each, as one process of a group."""
    file = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"{n}?"} for n in range(3)])
    config = run_config(tiny_model, file, tmp_path / "run", "objective=grpo", "rewards=[{metric: exact}]")
    rows = load_kind(config.data, from_directory(tiny_model), kind=RowKind.PROMPTS)
    model = trainable_model(tiny_model)

    def asked(
        group: Alone,
        *,
        signal: bool = False,
        reward: Lengths | None = None,
        emit: Subscriber = ignore,
        times: int = 1,
    ) -> JudgedAnswers:
        sampler = Sampler(
            model=model, tokenizer=from_directory(tiny_model), stop_ids=frozenset({2}), group=group, emit=emit,
            judge=Judge([WeighedReward("length", reward or Lengths())]), stop=lambda: signal,
        )  # fmt: skip
        for _ in range(times):
            found = sampler.answers(rows.prompts, list(rows.train), 2, SAMPLING, "sampling")
        return found

    return asked


def test_answers_come_back_from_their_numbers(tiny_model: Path) -> None:
    tokenizer = from_directory(tiny_model)
    answers = [
        SampledAnswer(tokens=(5, 6, 2), text=tokenizer.decode([5, 6]), logprobs=np.array([-1.5, -0.1, np.nan]),
                      truncated=False),
        SampledAnswer(tokens=(2,), text="", logprobs=np.array([np.nan]), truncated=False),
        SampledAnswer(tokens=(7, 8), text=tokenizer.decode([7, 8]), logprobs=np.array([-0.2, -0.3]), truncated=True),
    ]  # fmt: skip
    again = _answers(_numbers(answers), 3, tokenizer)
    for one, other in zip(again, answers, strict=True):
        assert (one.tokens, one.text, one.truncated) == (other.tokens, other.text, other.truncated)
        assert one.logprobs.tobytes() == other.logprobs.tobytes()


def test_a_process_that_is_alone_answers_and_judges_all(ask: Ask) -> None:
    found = ask(Alone())
    assert len(found.answers) == 6
    assert found.judged.totals.tolist() == [float(len(one.tokens)) for one in found.answers]


def test_answers_without_a_reward_are_told_of_once(ask: Ask) -> None:
    """A reward that never has an opinion would make a run that learns nothing, in silence."""
    seen: list[Event] = []
    ask(Alone(), reward=Silent(), emit=seen.append, times=2)
    (note,) = [event for event in seen if isinstance(event, Note)]
    assert (note.message, note.level) == (
        "none of 6 answers has a reward, so that a step learns nothing from them",
        Level.WARNING,
    )


@pytest.mark.parametrize("own", [True, False])
def test_a_signal_to_one_process_stops_all_before_they_exchange_anything(own: bool, ask: Ask) -> None:
    group = Told(Ranks(rank=0, world=2), {"sampled/1/1": READY if own else STOPPED})
    with pytest.raises(SamplingStopped):
        ask(group, signal=own)
    assert group.left == {"sampled/1/0": STOPPED if own else READY}


def test_a_signal_while_rewards_judge_is_told_to_the_others(ask: Ask) -> None:
    first = Told(ALONE, {})
    with pytest.raises(SamplingStopped):
        ask(first, reward=Lengths(stopped=True))
    assert first.left["judged/1"] == STOPPED
