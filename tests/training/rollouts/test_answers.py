"""Sampling is the policy: log-probabilities of both agree, and what is drawn follows from seed, step and row alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tiny import run_config, write_rows
from veneer.data.chat import Example
from veneer.data.encoding import encoder_of
from veneer.data.packing import pack
from veneer.data.prompts import to_prompt
from veneer.enums import Method
from veneer.events import Event, StageProgress, ignore
from veneer.io.tokenizer import from_directory
from veneer.model.language import LanguageModel
from veneer.training.build import build
from veneer.training.objective import hidden_states
from veneer.training.objectives.documents import token_log_probabilities
from veneer.training.rollouts.answers import SampledAnswer, SamplingStopped, sample, sampling_of, to_judge
from veneer.training.rollouts.planned_steps import answered
from veneer.training.run_inputs import prepare_run

GROUP = 4
STOP = frozenset({2})


def adapted(model: Path, folder: Path, method: Method, *assignments: str) -> LanguageModel:
    """A base under a method with an adapter whose update is far from zero."""
    file = write_rows(folder / "rows.jsonl", [{"prompt": "a?"}] * 4)
    config = run_config(
        model, file, folder / "run", "objective=grpo", "rewards=[{metric: exact}]", f"method={method.value}",
        *assignments,
    )  # fmt: skip
    language, trainable = build(prepare_run(config, ignore))
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
    language: LanguageModel, model: Path, *, seed: int = 0, number: int = 1, rows: slice = slice(None)
) -> list[SampledAnswer]:
    config = run_config(model, model, model, "objective=grpo", "rewards=[{metric: exact}]",
                        f"grpo.num_generations={GROUP}", "grpo.max_completion_length=40")  # fmt: skip
    sampling = sampling_of(config.grpo, seed, number)
    return sample(language, prompts(model)[rows], GROUP, sampling, from_directory(model), STOP)


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
    config = run_config(tiny_model, tiny_model, tiny_model, "objective=grpo", "rewards=[{metric: exact}]")
    with pytest.raises(SamplingStopped):
        sample(language, [[5, 6]], 2, sampling_of(config.grpo, 0, 1), from_directory(tiny_model), STOP, lambda: True)


def test_sampling_tells_its_rate_and_the_time_left_while_answers_end(tiny_model: Path, tmp_path: Path) -> None:
    language = adapted(tiny_model, tmp_path, Method.LORA)
    config = run_config(tiny_model, tiny_model, tiny_model, "objective=grpo", "rewards=[{metric: exact}]")
    seen: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("veneer.events.INTERVAL", 0.0)
        sample(language, [[5, 6]] * 4, GROUP, sampling_of(config.grpo, 0, 1), from_directory(tiny_model), STOP,
               emit=seen.append)  # fmt: skip
    told = [event for event in seen if isinstance(event, StageProgress)]
    between = [one for one in told if 0 < one.done < 4 * GROUP]
    assert between
    assert all(one.rate > 0 and one.seconds_left is not None and one.seconds_left > 0 for one in between)
    assert {(one.stage, one.total, one.unit) for one in told} == {("sampling answers", 4 * GROUP, "answers")}
    assert (told[-1].done, told[-1].seconds_left) == (4 * GROUP, 0.0)


def test_rewards_get_the_row_of_each_answer() -> None:
    rows = [to_prompt({"prompt": "a", "level": 1}, "f:1"), to_prompt({"prompt": "b", "level": 2}, "f:2")]
    answers = [
        SampledAnswer(tokens=(number,), text=str(number), logprobs=np.zeros(1), truncated=False) for number in range(4)
    ]
    found = to_judge(rows, answers, 2)
    assert [(one.where, one.number, one.text, one.columns["level"]) for one in found] == [
        ("f:1", 0, "0", 1), ("f:1", 1, "1", 1), ("f:2", 0, "2", 2), ("f:2", 1, "3", 2),
    ]  # fmt: skip
