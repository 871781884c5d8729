"""ROUGE-L: the longest common subsequence of words of answer and reference (Lin, 2004), as an F1.

Words are runs of letters and digits of any script, in lower case, with their combining marks: a vowel sign of Hindi is
part of its word. In scripts without spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) each character
is a word, since otherwise a whole sentence would be one. (The package `rouge-score` deletes every character that is not
ASCII, so answers in most languages have no words at all there.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from unicodedata import category, normalize

from veneer.evaluation.metrics.base import AnsweredRow, TaskResult
from veneer.evaluation.statistics.measures import mean_of

_WORD = re.compile(r"[^\W_]+")
_ALONE = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
"""Characters of scripts without spaces between words: Thai, Lao, Burmese, Khmer, Han, Hiragana and Katakana."""


def rouge_l(rows: Sequence[AnsweredRow]) -> TaskResult:
    """The mean over rows of F1 by the longest common subsequence of words."""
    found = mean_of("rouge_l", [_score(row.answer, row.reference) for row in rows])
    return TaskResult([] if found is None else [found])


def _score(answer: str, reference: str) -> float:
    """F1 of two texts; equal texts are right even if they have no word ("👍")."""
    return 1.0 if answer.strip() == reference.strip() else f1(words(answer), words(reference))


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    text = normalize("NFC", text.lower())
    if text.isascii():
        return _WORD.findall(text)
    found, begun = list[str](), False
    for character in text:
        if begun and category(character).startswith("M"):
            found[-1] += character
        elif not character.isalnum():
            begun = False
        elif begun and not (_ALONE.match(character) or _ALONE.match(found[-1])):
            found[-1] += character
        else:
            found.append(character)
            begun = True
    return found


def f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of two lists of words: 1 if they are equal, 0 if they have no word in common (as when one is empty)."""
    common = common_subsequence(answer, reference)
    return 2 * common / (len(answer) + len(reference)) if common else 0.0


def common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """The length of the longest common subsequence.

    Each word of `left` is one bit of an integer, and a word of `right` updates all bits at once (Crochemore et al.,
    Information Processing Letters 80, 2001), so long answers cost little.
    """
    places: dict[str, int] = {}
    for index, word in enumerate(left):
        places[word] = places.get(word, 0) | 1 << index
    every = (1 << len(left)) - 1
    state = every
    for word in right:
        matched = state & places.get(word, 0)
        state = (state + matched | state - matched) & every
    return len(left) - state.bit_count()
