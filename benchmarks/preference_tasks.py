"""The rows of `benchmarks/preferences.py`, made of the bundled claims, and what is judged of answers to them.

Three of five rows of the careless fine-tuning have an answer with a field that the message says nothing of
(`"status":"open"`), as careless annotators would write them, so that the fine-tuned model invents it in its likeliest
answer. Pairs, labels and prompts stand on other messages; the teacher's rows and the student's on others again. Held
out are the bundled new records.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veneer.bundled import bundled_data

INVENTED = {"status": "open"}
"""What no message speaks of, and careless answers say at their end."""
CARELESS = 0.6
"""Share of the rows of careless fine-tuning that are so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How many rows each file has."""

    careless: int = 160
    """Of careless fine-tuning."""
    pairs: int = 96
    """Messages that the preferences, labels and prompts stand on."""
    teacher: int = 240
    student: int = 64
    held_out: int = 80


def invented(answer: str) -> str:
    """A record with one field more."""
    return json.dumps(json.loads(answer) | INVENTED, ensure_ascii=False, separators=(",", ":"))


def pair(row: dict[str, Any]) -> dict[str, Any]:
    """The right record, and one with an invented field."""
    *before, answer = row["messages"]
    return {
        "prompt": before,
        "chosen": [answer],
        "rejected": [answer | {"content": invented(answer["content"])}],
    }


def labelled(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A pair as two rows with a label."""
    return [
        {"prompt": row["prompt"], "completion": row[key], "label": key == "chosen"} for key in ("chosen", "rejected")
    ]


def careless(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose answer has an invented field."""
    changed = deepcopy(row)
    changed["messages"][-1]["content"] = invented(row["messages"][-1]["content"])
    return changed


def write_tasks(folder: Path, sizes: Sizes, seed: int) -> dict[str, Path]:
    """The files of a seed, by name.

    Raises:
        ValueError: the bundled messages are fewer than those that are asked for.
    """
    source = random.Random(seed)
    found = read_lines(bundled_data() / "train.jsonl")
    source.shuffle(found)
    parts = []
    for count in (sizes.careless, sizes.pairs, sizes.teacher, sizes.student):
        if count > len(found):
            raise ValueError("there are 1,600 bundled messages, and more are asked for: take fewer rows")
        parts.append(found[:count])
        found = found[count:]
    first, others, taught, student = parts
    bad = round(CARELESS * len(first))
    held_out = read_lines(bundled_data() / "new_records.jsonl")[: sizes.held_out]
    pairs = [pair(row) for row in others]
    contents = {
        "careless": [*map(careless, first[:bad]), *first[bad:]],
        "prompts": others,
        "pairs": pairs,
        "labels": [one for row in pairs for one in labelled(row)],
        "teacher": taught,
        "student": student,
        "held-out pairs": [pair(row) for row in held_out],
        "held-out rows": held_out,
    }
    folder.mkdir(parents=True, exist_ok=True)
    return {name: _write_lines(folder / f"{name.replace(' ', '-')}.jsonl", rows) for name, rows in contents.items()}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def is_clean(answer: str, reference: str) -> bool:
    """Whether an answer is a JSON object without fields that the right record has not."""
    try:
        said = json.loads(answer)
    except json.JSONDecodeError:
        return False
    return isinstance(said, dict) and said.keys() <= json.loads(reference).keys()
