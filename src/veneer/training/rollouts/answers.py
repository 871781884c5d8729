"""Rollouts: the answers that a policy samples, through the engine that serves models, with its live adapter.

What is sampled depends on the weights, the prompts, the run's seed and the number of the sampling, and on nothing
else: a resumed run samples what the run samples that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from veneer.config import GrpoSection
from veneer.data.prompts import PromptRow
from veneer.events import Stage, Subscriber, ignore
from veneer.generation.batch import whole_answers
from veneer.generation.request import STREAMS, FinishReason, GenerationRequest, GenerationResult
from veneer.generation.sampling import Sampling
from veneer.io.tokenizer import Tokenizer
from veneer.model.language import LanguageModel
from veneer.rewards.base import AnswerToJudge

Floats = NDArray[np.float64]


class SamplingStopped(Exception):
    """A signal came while answers were sampled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledAnswer:
    """An answer as it was sampled."""

    tokens: tuple[int, ...]
    """The answer's tokens. The one that ends it stands once, at the end; none does where the answer was cut."""
    text: str
    """What it says, without the token that ends it."""
    logprobs: Floats
    """The sampler's log-probability of each token, under the model's own scores; NaN for the one that ends it."""
    truncated: bool
    """Whether it was cut at the longest length."""


def sampling_of(settings: GrpoSection, seed: int, number: int) -> Sampling:
    """How answers are drawn.

    Args:
        settings: of the run.
        seed: of the run.
        number: which sampling of the run it is.
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


def sample(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    num_generations: int,
    sampling: Sampling,
    tokenizer: Tokenizer,
    stop_ids: frozenset[int],
    stop: Callable[[], bool] = lambda: False,
    emit: Subscriber = ignore,
    stage: str = "sampling answers",
    places: Sequence[int] | None = None,
) -> list[SampledAnswer]:
    """Answers to prompts, those to one prompt side by side; each draws from a random stream of its own.

    Args:
        model: as it is now; it computes in evaluation mode meanwhile.
        prompts: their tokens.
        num_generations: the number of answers to each.
        sampling: how tokens are drawn.
        tokenizer: of the model.
        stop_ids: tokens that end an answer.
        stop: asked after every step of the engine.
        emit: told how far it is.
        stage: what this is called there.
        places: the place of each prompt among all that are asked, which says what streams its answers draw from; None
            where these are all.

    Raises:
        SamplingStopped: `stop` was true.
    """
    requests = [
        GenerationRequest(
            prompt=tuple(int(token) for token in prompt),
            sampling=sampling,
            stream=(place * num_generations + number) % STREAMS,
            stop_ids=stop_ids,
            logprobs=0,
        )
        for place, prompt in zip(range(len(prompts)) if places is None else places, prompts, strict=True)
        for number in range(num_generations)
    ]
    if not requests:
        return []
    with Stage(emit, stage, total=len(requests), unit="answers") as told:
        results = whole_answers(model, requests, on_progress=told.advance_side_by_side, stop=stop)
        return [_sampled(result, tokenizer) for result in results]


def _sampled(result: GenerationResult, tokenizer: Tokenizer) -> SampledAnswer:
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


def to_judge(
    prompts: Sequence[PromptRow], answers: Sequence[SampledAnswer], num_generations: int
) -> list[AnswerToJudge]:
    """Answers with the rows that they answer, for rewards."""
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
