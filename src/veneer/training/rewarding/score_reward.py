"""A reward that is a reward model on the run's own base: its score for the prompt with the answer.

It is a separate model, with the adapter and the head that `objective: reward` trained, and shares all weights of the
base. It is built before the run's adapter, so that neither it nor the policy ever computes with the adapter of the
other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from veneer.config import RunConfig
from veneer.data.forms.record import Record
from veneer.errors import DataError
from veneer.io.tokenizer import Tokenizer
from veneer.machine.out_of_memory import out_of_memory_while
from veneer.model.decoder import CausalLM
from veneer.model.language import LanguageModel
from veneer.rewards.base import AnswerToJudge, RewardFailed
from veneer.rewards.build import names_of
from veneer.rewards.judge import Judge, WeighedReward
from veneer.training.rewarding.reward_model import RewardModel, reward_model_beside


class ScoreReward:
    """The scores of a reward model (`AnswerReward`)."""

    def __init__(self, model: RewardModel):
        self._model = model

    def refusals(self, rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """See `AnswerReward.refusals`: no column is read."""
        return [None] * len(rows)

    def values(self, answers: Sequence[AnswerToJudge]) -> list[float | None]:
        """See `AnswerReward.values`."""
        try:
            with out_of_memory_while("scoring answers by a reward model"):
                scores = self._model.scores_of([record_of(answer) for answer in answers])
        except DataError as error:
            raise RewardFailed(str(error)) from error
        if not all(map(math.isfinite, scores)):
            raise RewardFailed("a score is not finite")
        return list(scores)

    def close(self) -> None:
        """Nothing needs to be closed."""


def record_of(answer: AnswerToJudge) -> Record:
    """A prompt with its answer as the row that a reward model scores. The answer may be empty, unlike that of a
    training row."""
    turn = {"role": "assistant", "content": answer.text}
    if isinstance(answer.prompt, str):
        messages = ({"role": "user", "content": answer.prompt}, turn)
        return Record(answer.where, messages, answer.tools, prompt=answer.prompt, completion=answer.text)
    earlier = tuple(dict(message) for message in answer.prompt)
    untrained = tuple(place for place, message in enumerate(earlier) if message["role"] == "assistant")
    return Record(answer.where, (*earlier, turn), answer.tools, untrained=untrained)


def with_reward_models(judge: Judge, config: RunConfig, model: LanguageModel, tokenizer: Tokenizer) -> Judge:
    """The rewards of a run, including its reward models.

    Args:
        judge: the rewards that need no model.
        config: the run.
        model: the run's base, which has no adapter yet and does not change.
        tokenizer: the tokenizer of the base.

    Raises:
        AdapterError: a reward model's adapter cannot be used.
    """
    rewards = []
    for section, name in zip(config.rewards, names_of(config.rewards), strict=True):
        if section.adapter is not None:
            assert isinstance(model, CausalLM), "with a model that transformers computes no reward model is allowed"
            reward = ScoreReward(reward_model_beside(model, Path(section.adapter), tokenizer))
            rewards.append(WeighedReward(name, reward, section.weight, section.on_error))
    return judge.joined_by(rewards)
