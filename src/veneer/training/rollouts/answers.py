"""The answers that a policy samples: how they are drawn, and their forms for the engine, the processes and the
rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from veneer.config import GrpoSection
from veneer.data.forms.prompts import PromptRow
from veneer.generation.request import FinishReason, GenerationResult
from veneer.generation.sampling import Sampling
from veneer.io.tokenizer import Tokenizer
from veneer.rewards.base import AnswerToJudge

Floats = NDArray[np.float64]


class SamplingStopped(Exception):
    """A signal came while answers were sampled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledAnswer:
    """An answer as it was sampled."""

    tokens: tuple[int, ...]
    """The answer's tokens. The token that ends it occurs once, at the end, or not at all if the answer was cut."""
    text: str
    """The text, without the token that ends it."""
    logprobs: Floats
    """The sampler's log-probability of each token, from the model's own scores; NaN for the one that ends it."""
    truncated: bool
    """Whether it was cut at the maximum length."""


def sampling_of(settings: GrpoSection, seed: int, number: int) -> Sampling:
    """The settings for drawing answers.

    Args:
        settings: the settings of the run.
        seed: the seed of the run.
        number: the number of this sampling in the run.
    """
    drawn = int.from_bytes(blake2b(f"{seed} {number}".encode(), digest_size=8).digest(), "little")
    return Sampling(
        max_new_tokens=settings.max_completion_length,
        seed=drawn % 2**31,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
    )


def sampled_answer(result: GenerationResult, tokenizer: Tokenizer) -> SampledAnswer:
    """A sampled answer from a result of the engine.

    Raises:
        SamplingStopped: a signal ended the generation.
    """
    if result.finished.reason is FinishReason.CANCELLED:
        raise SamplingStopped
    ends = [result.finished.stop] if isinstance(result.finished.stop, int) else []
    logprobs = [token.logprob for token in result.logprobs] + [np.nan] * len(ends)
    return SampledAnswer(
        tokens=(*result.tokens, *ends),
        text=tokenizer.decode(list(result.tokens)),
        logprobs=np.array(logprobs, dtype=np.float64),
        truncated=result.finished.reason is FinishReason.LENGTH,
    )


def as_numbers(answers: Sequence[SampledAnswer]) -> Floats:
    """Answers as numbers: how many tokens each has, whether it was cut, the tokens, and their log-probabilities."""
    return np.concatenate(
        [
            np.array([len(answer.tokens) for answer in answers], dtype=np.float64),
            np.array([answer.truncated for answer in answers], dtype=np.float64),
            *[np.array(answer.tokens, dtype=np.float64) for answer in answers],
            *[answer.logprobs for answer in answers],
        ]
    )


def from_numbers(numbers: Floats, count: int, tokenizer: Tokenizer) -> list[SampledAnswer]:
    """The answers that `as_numbers` encoded. The token that ends one has no log-probability."""
    lengths, truncated, rest = np.split(numbers, [count, 2 * count])
    borders = np.cumsum(lengths).astype(np.int64)
    all_tokens, all_logprobs = (np.split(values, borders[:-1])[:count] for values in np.split(rest, 2))
    answers = []
    for own, logprobs, cut in zip(all_tokens, all_logprobs, truncated, strict=True):
        tokens = own.astype(np.int64).tolist()
        text = tokenizer.decode(tokens[: int((~np.isnan(logprobs)).sum())])
        answers.append(SampledAnswer(tokens=tuple(tokens), text=text, logprobs=logprobs, truncated=bool(cut)))
    return answers


def to_judge(
    prompts: Sequence[PromptRow], answers: Sequence[SampledAnswer], num_generations: int
) -> list[AnswerToJudge]:
    """Answers with the rows that they belong to, for rewards."""
    own_prompts = [prompt for prompt in prompts for _ in range(num_generations)]
    return [
        AnswerToJudge(
            where=prompt.record.where,
            number=place % num_generations,
            prompt=prompt.given,
            text=answer.text,
            tokens=answer.tokens,
            columns=prompt.columns,
            tools=prompt.record.tools,
        )
        for place, (prompt, answer) in enumerate(zip(own_prompts, answers, strict=True))
    ]
