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
    logprobs = [one.logprob for one in result.logprobs] + [np.nan] * len(ends)
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
            np.array([len(one.tokens) for one in answers], dtype=np.float64),
            np.array([one.truncated for one in answers], dtype=np.float64),
            *[np.array(one.tokens, dtype=np.float64) for one in answers],
            *[one.logprobs for one in answers],
        ]
    )


def from_numbers(numbers: Floats, count: int, tokenizer: Tokenizer) -> list[SampledAnswer]:
    """The answers that `as_numbers` encoded. The token that ends one has no log-probability."""
    lengths, truncated, rest = np.split(numbers, [count, 2 * count])
    borders = np.cumsum(lengths).astype(np.int64)
    tokens, logprobs = np.split(rest, 2)
    said = [part.astype(np.int64).tolist() for part in np.split(tokens, borders[:-1])][:count]
    known = np.split(logprobs, borders[:-1])[:count]
    return [
        SampledAnswer(
            tokens=tuple(one),
            text=tokenizer.decode(one[: int((~np.isnan(told)).sum())]),
            logprobs=told,
            truncated=bool(cut),
        )
        for one, told, cut in zip(said, known, truncated, strict=True)
    ]


def to_judge(
    prompts: Sequence[PromptRow], answers: Sequence[SampledAnswer], num_generations: int
) -> list[AnswerToJudge]:
    """Answers with the rows that they belong to, for rewards."""
    return [
        AnswerToJudge(
            where=prompts[place // num_generations].record.where,
            number=place % num_generations,
            prompt=prompts[place // num_generations].given,
            text=answer.text,
            tokens=answer.tokens,
            columns=prompts[place // num_generations].columns,
            tools=prompts[place // num_generations].record.tools,
        )
        for place, answer in enumerate(answers)
    ]
