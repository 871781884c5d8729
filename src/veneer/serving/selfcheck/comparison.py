"""Two answers to one question: whether they are equal, bit for bit or within rounding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from veneer.serving.selfcheck.questions import TOP

TOLERANCE = 1e-5
"""Largest difference of log-probabilities that modules compute in float32, beside other rows or alone. veneer's
products do not round by the number of rows. Where torch makes one (experts), its products do."""
COMPARED = ("text", "tokens", "token_logprobs", "top_logprobs", "finish_reason")
"""What is compared of an answer."""


class Exactness(StrEnum):
    """How answers are compared."""

    BITWISE = "bitwise"
    """All is equal: the compiled step computes each row by one order of operations."""
    ROUNDED = "rounded"
    """Log-probabilities are equal within the tolerance, up to the first token that differs: torch computes them."""


@dataclass(frozen=True, slots=True)
class AnswerComparison:
    """How an answer stands to the one of a cold server."""

    problem: str | None
    """What differs; None where nothing does."""
    largest: float = 0.0
    """The largest difference of a log-probability."""


def whole_answer(choice: Mapping[str, Any]) -> dict[str, Any]:
    """What is compared of a choice of OpenAI's completions."""
    found = choice["logprobs"]
    own = {name: found[name] for name in ("tokens", "token_logprobs", "top_logprobs")}
    return {"text": choice["text"], **own, "finish_reason": choice["finish_reason"]}


def streamed_answer(choices: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What is compared of an answer that came as a stream of such choices."""
    found: dict[str, Any] = {
        "text": "",
        "tokens": [],
        "token_logprobs": [],
        "top_logprobs": [],
        "finish_reason": None,
    }
    for choice in choices:
        found["text"] += choice["text"]
        found["finish_reason"] = choice["finish_reason"] or found["finish_reason"]
        for name, values in (choice["logprobs"] or {}).items():
            if name in found:
                found[name] += values
    return found


def compare(found: Mapping[str, Any], expected: Mapping[str, Any], exactness: Exactness) -> AnswerComparison:
    """Compare an answer with the one of a cold server.

    Args:
        found: the answer, from `whole_answer` or `streamed_answer`.
        expected: the other.
        exactness: how.
    """
    if exactness is Exactness.BITWISE:
        different = [name for name in COMPARED if found[name] != expected[name]]
        return AnswerComparison(f"other {', '.join(different)}" if different else None)
    largest = 0.0
    for place, (own, other) in enumerate(zip(found["tokens"], expected["tokens"], strict=False)):
        here, there = ([*_likeliest(answer["top_logprobs"][place])] for answer in (found, expected))
        if own == other:
            here.append(found["token_logprobs"][place])
            there.append(expected["token_logprobs"][place])
        gaps = (abs(a - b) for a, b in zip(here, there, strict=False) if a is not None and b is not None)
        largest = max(largest, *gaps, 0.0)
        if own != other:
            # Within rounding, two tokens were equally likely; what follows belongs to another text.
            break
    else:
        if len(found["tokens"]) != len(expected["tokens"]):
            return AnswerComparison("another number of tokens", largest)
    problem = None if largest <= TOLERANCE else f"log-probabilities differ by {largest:.2e}"
    return AnswerComparison(problem, largest)


def _likeliest(top: Mapping[str, float] | None) -> list[float]:
    """The log-probabilities of the likeliest tokens: those of an answer's place, whichever token was drawn there."""
    return [] if top is None else sorted(top.values(), reverse=True)[:TOP]
