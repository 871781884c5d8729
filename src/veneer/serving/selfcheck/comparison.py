"""Whether two answers to one question are equal, bit for bit or within rounding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from veneer.serving.selfcheck.questions import TOP_LOGPROBS

LOGPROB_TOLERANCE = 1e-5
"""The largest difference between log-probabilities that modules compute in float32 with other rows and alone. veneer's
products round independently of the number of rows; torch's, which some modules use (experts), do not."""
COMPARED_FIELDS = ("text", "tokens", "token_logprobs", "top_logprobs", "finish_reason")
"""The fields of an answer that are compared."""


class Exactness(StrEnum):
    """How answers are compared."""

    BITWISE = "bitwise"
    """All fields are equal: the compiled step computes each row in one order of operations."""
    ROUNDED = "rounded"
    """Log-probabilities are equal within the tolerance, up to the first token that differs, because torch computes
    them."""


@dataclass(frozen=True, slots=True)
class AnswerComparison:
    """How an answer differs from that of a cold server."""

    problem: str | None
    """What differs; None if the answers count as equal."""
    largest: float = 0.0
    """The largest difference of a log-probability."""


def whole_answer(choice: Mapping[str, Any]) -> dict[str, Any]:
    """The compared fields of a choice in OpenAI's completions."""
    logprobs = {name: choice["logprobs"][name] for name in ("tokens", "token_logprobs", "top_logprobs")}
    return {"text": choice["text"], **logprobs, "finish_reason": choice["finish_reason"]}


def streamed_answer(choices: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The compared fields of an answer that came as a stream of such choices."""
    answer: dict[str, Any] = {
        "text": "",
        "tokens": [],
        "token_logprobs": [],
        "top_logprobs": [],
        "finish_reason": None,
    }
    for choice in choices:
        answer["text"] += choice["text"]
        answer["finish_reason"] = choice["finish_reason"] or answer["finish_reason"]
        for name, values in (choice["logprobs"] or {}).items():
            if name in answer:
                answer[name] += values
    return answer


def compare(found: Mapping[str, Any], expected: Mapping[str, Any], exactness: Exactness) -> AnswerComparison:
    """Compare an answer with that of a cold server.

    Args:
        found: the answer, from `whole_answer` or `streamed_answer`.
        expected: the answer of the cold server.
        exactness: how they are compared.
    """
    if exactness is Exactness.BITWISE:
        different = [name for name in COMPARED_FIELDS if found[name] != expected[name]]
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
            # Two tokens were equally likely within rounding; what follows belongs to different texts.
            break
    else:
        if len(found["tokens"]) != len(expected["tokens"]):
            return AnswerComparison("another number of tokens", largest)
    problem = None if largest <= LOGPROB_TOLERANCE else f"log-probabilities differ by {largest:.2e}"
    return AnswerComparison(problem, largest)


def _likeliest(top: Mapping[str, float] | None) -> list[float]:
    """The log-probabilities of the likeliest tokens at a place, whichever token was drawn there."""
    return [] if top is None else sorted(top.values(), reverse=True)[:TOP_LOGPROBS]
