"""How many tokens a request took, and how its answer is to be streamed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from veneer.generation.request import Finished, GenerationResult
from veneer.serving.fields import Fields


@dataclass(slots=True)
class Usage:
    """Tokens of a request. Several answers to one prompt count it once."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0

    @classmethod
    def of(cls, results: Iterable[GenerationResult], answers_a_prompt: int | None = None) -> Usage:
        """The tokens of whole answers.

        Args:
            results: the answers, those to each prompt together.
            answers_a_prompt: how many each prompt has; None means that all answer one.
        """
        usage = cls()
        for number, result in enumerate(results):
            usage.add(result.finished, new_prompt=answers_a_prompt is not None and number % answers_a_prompt == 0)
        return usage

    def add(self, finished: Finished, *, new_prompt: bool = False) -> None:
        """Add an answer's.

        Args:
            finished: the answer's end.
            new_prompt: whether the answer is the first to a further prompt.
        """
        if new_prompt or not self.prompt_tokens:
            self.prompt_tokens += finished.prompt_tokens
            self.cached_tokens += finished.cached_tokens
        self.new_tokens += finished.new_tokens

    @property
    def content(self) -> dict[str, Any]:
        """The usage in OpenAI's form."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.new_tokens,
            "total_tokens": self.prompt_tokens + self.new_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


def read_stream(fields: Fields) -> tuple[bool, bool]:
    """Whether an answer is streamed, and whether the stream ends with the usage.

    Raises:
        ApiError: 400, one of the fields is wrong.
    """
    stream, options = fields.flag("stream"), fields.section("stream_options")
    if options is None:
        return stream, False
    if not stream:
        raise fields.wrong("stream_options", "needs stream: true")
    options.neutral("continuous_usage_stats", False)
    return True, options.flag("include_usage")
