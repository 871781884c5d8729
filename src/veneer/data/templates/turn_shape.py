"""The frame that a chat template puts around turns, and ranges of a rendered text."""

from __future__ import annotations

from dataclasses import dataclass

Span = tuple[int, int]
"""A range [start, end) of characters."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The frame that a template puts around turns, as a probe conversation shows it."""

    end_token: str | None
    """The special token that closes every assistant turn; None where there is none or not always the same."""
    closings: tuple[str, ...]
    """What closes assistant turns: `end_token` with further tokens that always stand behind it, or two tokens where the
    last turn has one of its own."""
    headers: tuple[str, ...]
    """The texts that may stand before an assistant turn, longest first; each begins with a special token."""
    opening: str
    """The part of the generation prompt that only some turns have after the header ("<think>\\n" of templates that
    think)."""
    unprompted: str
    """The header, where `add_generation_prompt` leaves it out; otherwise empty."""
    question: str = ""
    """What stands between an answer and the next question, where no token closes answers; otherwise empty."""
