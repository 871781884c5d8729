"""Lines to repeat, character by character."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping
from typing import Any

from veneer.evaluation.suites.base import CITIES, NAMES, NOUNS, Item, Suite


def _make(source: random.Random) -> Item:
    words = [source.choice((*NAMES, *NOUNS, *CITIES)) for _ in range(source.randint(3, 6))]
    code = "".join(source.choices(string.ascii_uppercase + string.digits, k=source.randint(4, 8)))
    words.insert(source.randint(0, len(words)), code)
    text = " ".join(words)
    return Item(f"Repeat the following line exactly, and write nothing else.\n\n{text}", text, {"text": text})


def _right(answer: str, check: Mapping[str, Any]) -> bool:
    return bool(answer.strip().strip("\"'`") == check["text"])


COPYING = Suite("copying", "lines to be repeated exactly", _make, _right)
