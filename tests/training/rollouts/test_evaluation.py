"""The evaluation of a run that samples: greedy answers, their mean reward, and no number where no reward has one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.models.tiny import run_config, write_rows
from helpers.rows.preference_rows import trainable_model
from veneer.data.rows import load_rows
from veneer.enums import OnRewardError, RowKind
from veneer.errors import DataError
from veneer.events import Event, Note, Subscriber, ignore
from veneer.io.tokenizer import from_directory
from veneer.processes.group import Alone
from veneer.rewards.base import AnswerToJudge, RewardFailed
from veneer.rewards.judge import Judge, WeighedReward
from veneer.training.rollouts.evaluation import RewardEvaluation
from veneer.training.rollouts.sampler import Sampler


class Lengths:
    """Judges odd rows by the length of the answer, and has no opinion of even ones. It fails on some rows."""

    def __init__(self, silent: bool, fails: Collection[int] = ()) -> None:
        self.silent, self.fails = silent, fails

    def refusals(self, rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
        return [None] * len(rows)

    def values(self, answers: Sequence[AnswerToJudge]) -> list[float | None]:
        if any(one.columns["row"] in self.fails for one in answers):
            raise RewardFailed("it does not like the row")
        return [None if self.silent or one.columns["row"] % 2 == 0 else float(len(one.tokens)) for one in answers]

    def close(self) -> None:
        pass


def evaluation(
    model: Path,
    folder: Path,
    *,
    silent: bool = False,
    fails: Collection[int] = (),
    stop: Callable[[], bool] = lambda: False,
    emit: Subscriber = ignore,
) -> RewardEvaluation:
    file = write_rows(folder / "rows.jsonl", [{"prompt": f"{n}?", "row": n} for n in range(6)])
    config = run_config(model, file, folder / "run", "objective=grpo", "rewards=[{metric: exact}]")
    rows = load_rows(config.data, from_directory(model), kind=RowKind.PROMPTS)
    language = trainable_model(model)
    with torch.no_grad():
        language.embedding.weight[2] = 0.0  # the end is never the likeliest token
    sampler = Sampler(
        model=language, tokenizer=from_directory(model), stop_ids=frozenset({2}),
        judge=Judge([WeighedReward("length", Lengths(silent, fails), on_error=OnRewardError.SKIP_ROW)]), group=Alone(),
        emit=emit, stop=stop,
    )  # fmt: skip
    return RewardEvaluation(sampler=sampler, prompts=rows.prompts, examples=list(rows.train), longest=5)


def test_the_loss_is_minus_the_mean_reward_of_answers_that_have_one(tiny_model: Path, tmp_path: Path) -> None:
    measure = evaluation(tiny_model, tmp_path)
    found = measure()
    assert found is not None
    assert found.loss == -5.0
    assert found.metrics["reward"] == found.metrics["rewards/length/mean"] == 5.0
    assert found.metrics["completions/clipped_ratio"] == 1.0
    again = measure()
    assert again is not None
    assert again.metrics == found.metrics, "greedy"
    measure.sampler.judge = Judge([WeighedReward("length", Lengths(False), weight=0.0)])
    worthless = measure()
    assert worthless is not None
    assert f"{worthless.loss:.4f}" == "0.0000"


def test_answers_that_a_reward_fails_on_are_told_and_named_where_none_is_left(tiny_model: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    found = evaluation(tiny_model, tmp_path, fails=(1, 4), emit=events.append)()
    assert found is not None
    assert found.loss == -5.0
    (told,) = [event.message for event in events if isinstance(event, Note)]
    assert "answers left out because a reward failed: length: " in told
    assert told.endswith("rows.jsonl:2, answer 1: it does not like the row, and 1 more")
    with pytest.raises(
        DataError,
        match=r"no answer to an evaluation prompt got a reward.*:\n.*rows.jsonl:1, answer 1: it does not like",
    ):
        evaluation(tiny_model, tmp_path, fails=range(6))()


def test_no_opinion_at_all_is_an_error_and_a_signal_is_none(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no answer to an evaluation prompt got a reward"):
        evaluation(tiny_model, tmp_path, silent=True)()
    assert evaluation(tiny_model, tmp_path, stop=lambda: True)() is None
