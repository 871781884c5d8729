"""The questions of a self-check: drawn at random, with beginnings that many of them share under different adapters.

Prompts are tokens drawn from the vocabulary, so no data of the user's is needed. A mixed answer shows at once, because
no two prompts are alike after their beginnings.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from veneer.generation.request import GenerationRequest
from veneer.generation.sampling import Sampling

BEGINNING_LENGTHS = (0, 17, 32, 53)
"""The lengths of the beginnings, in tokens: none, and some blocks of 16 with and without a part of another block."""
MOST_REST_TOKENS, MOST_ANSWER_TOKENS = 9, 8
"""The most tokens of a prompt after its beginning, and of an answer."""
MOST_SEQUENCE_TOKENS = max(BEGINNING_LENGTHS) + MOST_REST_TOKENS + MOST_ANSWER_TOKENS
"""The most tokens of a sequence."""
TOP_LOGPROBS = 2
"""The number of likeliest tokens whose log-probabilities are compared at each place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckQuestion:
    """A request that the check sends."""

    number: int
    prompt: tuple[int, ...]
    beginning: int
    """The index of its beginning."""
    adapter: str | None
    max_tokens: int
    temperature: float
    seed: int
    presence_penalty: float
    echo: bool
    stream: bool
    leaves: bool
    """Whether the client disconnects before it has the answer."""

    def body(self, model: str) -> dict[str, Any]:
        """The question as the body of POST /v1/completions.

        Args:
            model: the name of the adapter or the base.
        """
        return {
            "model": model,
            "prompt": list(self.prompt),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "presence_penalty": self.presence_penalty,
            "logprobs": TOP_LOGPROBS,
            "echo": self.echo,
            "stream": self.stream,
        }

    def request(self) -> GenerationRequest:
        """The question as a request of the engine, with the same name of the adapter."""
        return GenerationRequest(
            prompt=self.prompt,
            sampling=Sampling(
                max_new_tokens=self.max_tokens,
                temperature=self.temperature,
                seed=self.seed,
                presence_penalty=self.presence_penalty,
            ),
            adapter=self.adapter,
            logprobs=TOP_LOGPROBS,
            prompt_logprobs=TOP_LOGPROBS if self.echo else None,
        )


def draw_questions(count: int, adapters: Sequence[str], vocab_size: int, seed: int) -> list[CheckQuestion]:
    """Questions in the order in which they are asked.

    Args:
        count: the number of questions.
        adapters: names of adapters; the base is asked about as often as two of them together.
        vocab_size: the number of tokens in the vocabulary.
        seed: the seed of the draws.
    """
    source = random.Random(seed)
    beginnings = [tuple(source.randrange(vocab_size) for _ in range(length)) for length in BEGINNING_LENGTHS]
    names: list[str | None] = [None, None, *adapters]
    questions = []
    for number in range(count):
        beginning = source.randrange(len(beginnings))
        rest = tuple(source.randrange(vocab_size) for _ in range(source.randint(1, MOST_REST_TOKENS)))
        echo = source.random() < 0.2
        questions.append(
            CheckQuestion(
                number=number,
                prompt=beginnings[beginning] + rest,
                beginning=beginning,
                adapter=source.choice(names),
                max_tokens=source.randint(1, MOST_ANSWER_TOKENS),
                temperature=source.choice((0.0, 0.0, 1.1)),
                seed=source.randrange(5),
                presence_penalty=source.choice((0.0, 0.5)),
                echo=echo,
                stream=not echo and source.random() < 0.5,
                leaves=source.random() < 0.03,
            )
        )
    return questions
