"""The number of tokens that a request took, and whether its answer is streamed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from veneer.generation.request import Finished
from veneer.http_server.fields import Fields


@dataclass(slots=True)
class Usage:
    """The tokens of a request. A prompt with several answers counts once."""

    answers_a_prompt: int
    """The number of answers to each prompt; their own numbers are consecutive."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    _prompts: set[int] = field(default_factory=set)
    """The numbers of the prompts that have been counted."""

    def add(self, number: int, finished: Finished) -> None:
        """Add the tokens of an answer.

        Args:
            number: the answer's number.
            finished: the answer's end.
        """
        prompt = number // self.answers_a_prompt
        if prompt not in self._prompts:
            self._prompts.add(prompt)
            self.prompt_tokens += finished.prompt_tokens
            self.cached_tokens += finished.cached_tokens
        self.new_tokens += finished.made_tokens

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
