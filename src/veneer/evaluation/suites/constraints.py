"""Answers under constraints that can be checked: words to use, their number, their case, an ending, a list."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

from veneer.evaluation.suites.base import CITIES, NAMES, NOUNS, Item, Suite

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_WORDS = (*NOUNS, *NAMES, *CITIES)
_SEPARATORS = {"commas": ", ", "spaces": " ", "semicolons": "; ", "hyphens": "-"}


def _make(source: random.Random) -> Item:
    kind = source.choice(("words", "times", "case", "ending", "list"))
    count = source.randint(3, 7)
    first, last, *others = source.sample(_WORDS, k=count)
    check: dict[str, Any] = {"kind": kind, "count": count, "words": [first, last]}
    if kind == "words":
        prompt = f"Write exactly {count} words, separated by spaces, among them {first} and {last}. Write nothing else."
        return Item(prompt, " ".join([first, *others, last]), check)
    if kind == "times":
        name, separator = source.choice(tuple(_SEPARATORS.items()))
        prompt = f"Write the word {first} exactly {count} times, separated by {name}. Write nothing else."
        return Item(prompt, separator.join([first] * count), {**check, "separator": separator.strip()})
    if kind == "case":
        prompt = f"Write one sentence with the words {first} and {last}, all in capital letters."
        return Item(prompt, f"{first} AND {last} ARE HERE.".upper(), check)
    if kind == "ending":
        prompt = f"Write one sentence that has the word {first} in it and ends with the word {last} and a full stop."
        return Item(prompt, f"We saw {first} beside {last}.", check)
    ends = f"The first is {first}, the last {last}."
    prompt = f"Write a numbered list (1., 2., …) of exactly {count} words, one a line. {ends}"
    lines = [f"{place}. {word}" for place, word in enumerate([first, *others, last], start=1)]
    return Item(prompt, "\n".join(lines), check)


def _right(answer: str, check: Mapping[str, Any]) -> bool:
    text, kind = answer.strip(), check["kind"]
    first, last = (word.lower() for word in check["words"])
    words = [word.lower() for word in _WORD.findall(text)]
    if kind == "words":
        return len(words) == len(text.split()) == check["count"] and {first, last} <= set(words)
    if kind == "times":
        parts = text.split(check["separator"] or None)
        return [part.strip().lower() for part in parts] == [first] * check["count"]
    if kind == "case":
        return text == text.upper() and {first, last} <= set(words) and len(words) > 2
    if kind == "ending":
        return text.lower().endswith(f"{last}.") and first in words and len(words) > 2
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    listed = [line.removeprefix(f"{place}.").strip().lower() for place, line in enumerate(lines, start=1)]
    numbered = all(line.startswith(f"{place}.") for place, line in enumerate(lines, start=1))
    return numbered and len(listed) == check["count"] and listed[0] == first and listed[-1] == last and all(listed)


CONSTRAINTS = Suite("constraints", "words to use, their number, their case, an ending, a list", _make, _right)
