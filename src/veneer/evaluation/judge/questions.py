"""The question to a judge about a pair of answers, and the reading of its verdict."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from veneer.data.forms.turns import Message

PLACES = ("{question}", "{first}", "{second}")
"""The placeholders that every prompt must have."""
DEFAULT_PROMPT = """Two assistants have answered the question below. Judge which answer is better: more correct, more
helpful and closer to what was asked. The order of the answers and their length must not matter.

[Question]
{question}

[Reference answer]
{reference}

[Answer 1]
{first}

[Answer 2]
{second}

Give your reasons in a few sentences. Then end with one line, which is one of these three:
Verdict: 1
Verdict: 2
Verdict: tie"""
_PLACE = re.compile(r"\{(question|reference|first|second)\}")
_VERDICT = re.compile(
    r"^[^\w\n]*(?:(?:my|the|final|overall)[^\w\n]+){0,3}verdict[^\w\n]{1,8}(1|2|tie)\b([^\n]*)",
    re.IGNORECASE | re.MULTILINE,
)
"""A line that begins with a verdict, and its rest: a verdict within a sentence was only considered, or repeats the
question. No part of the pattern goes beyond its line. Otherwise an answer of nothing but line breaks would be searched
again from each of them."""
_CHOICE = re.compile(r"\b(?:1|2|tie)\b", re.IGNORECASE)


class Choice(StrEnum):
    """A verdict on two answers."""

    FIRST = "1"
    SECOND = "2"
    TIE = "tie"


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Two answers to one question."""

    where: str
    """The file and line of the row."""
    question: str
    reference: str
    one: str
    """The base's answer; in a row that people have judged, its first answer."""
    other: str
    """The adapter's answer; in a row that people have judged, its second answer."""


@dataclass(frozen=True, slots=True)
class JudgeQuestion:
    """A pair in one order."""

    pair: AnswerPair
    swapped: bool
    """Whether the pair's other answer comes first."""
    messages: tuple[Message, ...]

    @property
    def name(self) -> str:
        """The row and the order, as messages name them."""
        return f"{self.pair.where} ({'second' if self.swapped else 'first'} order)"


def questions_of(pair: AnswerPair, prompt: str, system: str | None) -> tuple[JudgeQuestion, JudgeQuestion]:
    """A pair in both orders."""
    return _question(pair, False, prompt, system), _question(pair, True, prompt, system)


def _question(pair: AnswerPair, swapped: bool, prompt: str, system: str | None) -> JudgeQuestion:
    first, second = (pair.other, pair.one) if swapped else (pair.one, pair.other)
    texts = {"question": pair.question, "reference": pair.reference, "first": first, "second": second}
    # Replaced in one pass: an answer may contain the name of another placeholder.
    text = _PLACE.sub(lambda found: texts[found[1]], prompt)
    before: tuple[Message, ...] = () if system is None else ({"role": "system", "content": system},)
    return JudgeQuestion(pair, swapped, (*before, {"role": "user", "content": text}))


def verdict(answer: str) -> Choice | None:
    """The verdict of the last line that gives one; None if no line does, or if that line names another choice too
    ("Verdict: 1 and 2 are equally good")."""
    found = _VERDICT.findall(answer)
    if not found:
        return None
    said, rest = found[-1]
    named = {said.lower(), *(one.lower() for one in _CHOICE.findall(rest))}
    return Choice(said.lower()) if len(named) == 1 else None
