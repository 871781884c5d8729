"""The frame that a chat template puts around turns, and ranges of a rendered text."""

from __future__ import annotations

from dataclasses import dataclass

Span = tuple[int, int]
"""A range [start, end) of characters."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The frame that a template puts around turns, as a probe conversation shows it."""

    end_token: str | None
    """The special token that closes every assistant turn; None if there is none or not always the same one."""
    closings: tuple[str, ...]
    """The end of assistant turns: `end_token` with further tokens that always follow it, or two tokens if the last turn
    has its own."""
    headers: tuple[str, ...]
    """The texts that may come before an assistant turn, longest first; each begins with a special token."""
    opening: str
    """The part of the generation prompt after the header that only some turns have ("<think>\\n" in templates with
    thoughts)."""
    unprompted: str
    """The header, if `add_generation_prompt` leaves it out; otherwise empty."""
    question: str = ""
    """The text between an answer and the next question, if no token closes answers; otherwise empty."""
    skips_opening: bool = False
    """Whether even the last turn is written without `opening` if it has no thoughts."""
    lead: str = ""
    """The control tokens, with a name between them, that come before the words of every answer and are no part of the
    prompt (gpt-oss' `<|channel|>final<|message|>`); otherwise empty."""
