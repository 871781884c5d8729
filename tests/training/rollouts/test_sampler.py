"""Sampling is the policy: log-probabilities of both agree, and what is drawn follows from seed, step and row alone.

Divided among processes: what they tell each other, and how all of them stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.models.tiny import run_config, write_rows
from helpers.rows.preference_rows import trainable_model
from helpers.training.training_runs import built
from veneer.data.encoded.chat import Example
from veneer.data.encoded.encoding import encoder_of
from veneer.data.forms.prompts import to_prompt
from veneer.data.micro_batches.packing import pack
from veneer.data.rows import load_rows
from veneer.enums import Method, RowKind
from veneer.events import Event, Level, Note, StageProgress, Subscriber, ignore
from veneer.generation.sampling import Sampling
from veneer.io.tokenizer import from_directory
from veneer.model.language import LanguageModel
from veneer.processes.group import Alone
from veneer.processes.ranks import ONE_RANK, Ranks
from veneer.rewards.base import AnswerToJudge, RewardsStopped
from veneer.rewards.judge import Judge, WeighedReward
from veneer.training.objectives.documents import token_log_probabilities
from veneer.training.over_model import hidden_states
from veneer.training.rollouts.answers import SampledAnswer, SamplingStopped, sampling_of
from veneer.training.rollouts.planned_steps import answered
from veneer.training.rollouts.sampler import READY, STOPPED, JudgedAnswers, Sampler
from veneer.training.run_inputs import prepare_run

Ask = Callable[..., JudgedAnswers]
GROUP = 4
STOP = frozenset({2})
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

    def refusals(self, rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
        return [None] * len(rows)

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


def adapted(model: Path, folder: Path, method: Method, *assignments: str) -> LanguageModel:
    """A base under a method with an adapter whose update is far from zero."""
    file = write_rows(folder / "rows.jsonl", [{"prompt": "a?"}] * 4)
    config = run_config(
        model, file, folder / "run", "objective=grpo", "rewards=[{metric: exact}]", f"method={method.value}",
        *assignments,
    )  # fmt: skip
    language, trainable = built(prepare_run(config, ignore))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trainable.named().values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return language


def prompts(model: Path) -> list[list[int]]:
    encoder = encoder_of(from_directory(model))
    return [
        encoder.prompt_tokens([{"role": "user", "content": text}]) for text in ("a?", "how many parcels?", "b " * 40)
    ]


def encode_one(prompt: list[int]) -> Example:
    return Example(np.array(prompt, dtype=np.int32), np.zeros(len(prompt), dtype=np.bool_), "f")


def sampled(
    language: LanguageModel,
    model: Path,
    *,
    seed: int = 0,
    number: int = 1,
    rows: slice = slice(None),
    emit: Subscriber = ignore,
    stop: Callable[[], bool] = lambda: False,
) -> Sequence[SampledAnswer]:
    """What a process that is alone samples."""
    config = run_config(model, model, model, "objective=grpo", "rewards=[{metric: exact}]",
                        f"grpo.num_generations={GROUP}", "grpo.max_completion_length=40")  # fmt: skip
    sampler = Sampler(
        model=language, tokenizer=from_directory(model), stop_ids=STOP, group=Alone(), emit=emit,
        judge=Judge([WeighedReward("length", Lengths())]), stop=stop,
    )  # fmt: skip
    asked = [encode_one(prompt) for prompt in prompts(model)[rows]]
    told = [to_prompt({"prompt": "a?"}, "f") for _ in asked]
    return sampler.answers(told, asked, GROUP, sampling_of(config.grpo, seed, number), "sampling").answers


@pytest.fixture
def ask(tiny_model: Path, tmp_path: Path) -> Ask:
    """Asks three prompts twice each, as one process of a group."""
    file = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"{n}?"} for n in range(3)])
    config = run_config(tiny_model, file, tmp_path / "run", "objective=grpo", "rewards=[{metric: exact}]")
    rows = load_rows(config.data, from_directory(tiny_model), kind=RowKind.PROMPTS)
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
            model=model, tokenizer=from_directory(tiny_model), stop_ids=STOP, group=group, emit=emit,
            judge=Judge([WeighedReward("length", reward or Lengths())]), stop=lambda: signal,
        )  # fmt: skip
        for _ in range(times):
            found = sampler.answers(rows.prompts, list(rows.train), 2, SAMPLING, "sampling")
        return found

    return asked


@pytest.mark.parametrize(
    ("method", "more"),
    [(Method.LORA, ()), (Method.QLORA, ()), (Method.QLORA, ("lora.variant=dora",)),
     (Method.LORA, ("lora.target_modules=[q_proj, lm_head]",))],
)  # fmt: skip
def test_the_log_probabilities_of_sampler_and_policy_agree(
    method: Method, more: tuple[str, ...], tiny_model: Path, tmp_path: Path
) -> None:
    """In float32, with the live adapter over the same base, quantised or not: 1e-5 on average and 1e-4 at most."""
    language = adapted(tiny_model, tmp_path, method, *more)
    answers = sampled(language, tiny_model)
    asked = [one for one in prompts(tiny_model) for _ in range(GROUP)]
    examples = [answered(encode_one(prompt), answer.tokens) for prompt, answer in zip(asked, answers, strict=True)]
    differences = []
    language.train()
    for batch in pack(examples, 200, together=GROUP):
        policy = token_log_probabilities(hidden_states(language, batch), language.lm_head, language.spec.scores, batch)
        told = np.concatenate([answers[number].logprobs for number in batch.numbers])
        differences.append(np.abs(policy.detach().double().numpy() - told)[~np.isnan(told)])
    every = np.concatenate(differences)
    assert len(every) > 200
    assert every.mean() < 1e-5
    assert every.max() < 1e-4


def test_an_answer_ends_with_one_token_that_ends_it_or_with_none(tiny_model: Path, tmp_path: Path) -> None:
    """No second end and no second beginning: the tokens are those that were sampled."""
    language = adapted(tiny_model, tmp_path, Method.LORA)
    answers = [one for seed in range(6) for one in sampled(language, tiny_model, seed=seed)]
    ended, cut = [one for one in answers if not one.truncated], [one for one in answers if one.truncated]
    assert ended
    assert cut
    assert all(one.tokens[-1] == 2 and 2 not in one.tokens[:-1] for one in ended)
    assert all(2 not in one.tokens and len(one.tokens) == 40 for one in cut)
    assert all(np.isnan(one.logprobs[-1]) and len(one.logprobs) == len(one.tokens) for one in ended)
    tokenizer = from_directory(tiny_model)
    assert all(one.text == tokenizer.decode([token for token in one.tokens if token != 2]) for one in answers)


def test_what_is_drawn_follows_from_seed_sampling_and_row(tiny_model: Path, tmp_path: Path) -> None:
    language = adapted(tiny_model, tmp_path, Method.LORA)
    first = [one.tokens for one in sampled(language, tiny_model)]
    assert [one.tokens for one in sampled(language, tiny_model)] == first
    assert [one.tokens for one in sampled(language, tiny_model, number=2)] != first
    assert [one.tokens for one in sampled(language, tiny_model, seed=1)] != first
    assert [one.tokens for one in sampled(language, tiny_model, rows=slice(2))] == first[: 2 * GROUP]
    assert len(set(first)) == len(first), "answers to one prompt have streams of their own"


def test_a_signal_ends_sampling(tiny_model: Path, tmp_path: Path) -> None:
    language = adapted(tiny_model, tmp_path, Method.LORA)
    with pytest.raises(SamplingStopped):
        sampled(language, tiny_model, stop=lambda: True)


def test_sampling_tells_its_rate_and_the_time_left_while_answers_end(tiny_model: Path, tmp_path: Path) -> None:
    language = adapted(tiny_model, tmp_path, Method.LORA)
    seen: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("veneer.events.INTERVAL", 0.0)
        sampled(language, tiny_model, emit=seen.append)
    told = [event for event in seen if isinstance(event, StageProgress)]
    between = [one for one in told if 0 < one.done < 3 * GROUP]
    assert between
    assert all(one.rate > 0 and one.seconds_left is not None and one.seconds_left > 0 for one in between)
    assert {(one.stage, one.total, one.unit) for one in told} == {("sampling", 3 * GROUP, "answers")}
    assert (told[-1].done, told[-1].seconds_left) == (3 * GROUP, 0.0)


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
        "none of 6 answers has a reward, so a step learns nothing from them",
        Level.WARNING,
    )


@pytest.mark.parametrize("own", [True, False])
def test_a_signal_to_one_process_stops_all_before_they_exchange_anything(own: bool, ask: Ask) -> None:
    group = Told(Ranks(rank=0, world=2), {"sampled/1/1": READY if own else STOPPED})
    with pytest.raises(SamplingStopped):
        ask(group, signal=own)
    assert group.left == {"sampled/1/0": STOPPED if own else READY}


def test_a_signal_while_rewards_judge_is_told_to_the_others(ask: Ask) -> None:
    first = Told(ONE_RANK, {})
    with pytest.raises(SamplingStopped):
        ask(first, reward=Lengths(stopped=True))
    assert first.left["judged/1"] == STOPPED
