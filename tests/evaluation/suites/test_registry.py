"""Every suite: the same items everywhere, a ceiling that right answers reach, and a floor that others do not leave."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter

import pytest

from veneer.data.forms.formats import to_record
from veneer.evaluation.metrics.base import AnsweredRow
from veneer.evaluation.suites.base import MOST_ITEMS, Suite
from veneer.evaluation.suites.registry import SUITES

COUNT = 3_000
ALL = pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
DIGESTS = {
    "arithmetic": "76c874466e6ac0da",
    "copying": "3935718508d6c5a5",
    "json": "9b92d32d07f74f5d",
    "constraints": "aee3ae90988360e8",
    "tools": "d379c2ac8b11ad1b",
}
"""SHA-256 of the first 1,000 items of each suite: results of different machines and versions can be compared."""


def share(suite: Suite, answers: list[str]) -> float:
    rows = suite.rows(len(answers))
    pairs = zip(rows, answers, strict=True)
    answered = [AnsweredRow("s:1", row["prompt"], row["completion"], text, row) for row, text in pairs]
    (measure,) = suite.metric(answered).measures
    assert measure.name == suite.name
    return measure.total


@ALL
def test_items_are_the_same_everywhere(suite: Suite) -> None:
    content = json.dumps(suite.rows(1_000), ensure_ascii=False)
    assert hashlib.sha256(content.encode()).hexdigest()[:16] == DIGESTS[suite.name]
    assert suite.rows(COUNT)[:1_000] == suite.rows(1_000)


@ALL
def test_items_are_different_and_rows_of_a_data_file(suite: Suite) -> None:
    rows = suite.rows(COUNT)
    assert len({row["prompt"] for row in rows}) == len(rows) == COUNT
    for place, row in enumerate(rows[:50]):
        record = to_record(row, f"s:{place}")
        assert record.messages[-1]["content"] == row["completion"]


@pytest.mark.slow
@ALL
def test_there_are_thousands_of_items(suite: Suite) -> None:
    assert len({row["prompt"] for row in suite.rows(MOST_ITEMS)}) == MOST_ITEMS


@ALL
def test_the_ceiling_right_answers_are_all_right(suite: Suite) -> None:
    assert share(suite, [row["completion"] for row in suite.rows(COUNT)]) == 1.0
    # White space around an answer is no mistake.
    assert share(suite, [f"\n {row['completion']} \n" for row in suite.rows(COUNT)]) == 1.0


@ALL
def test_the_floor_answers_without_understanding_are_wrong(suite: Suite) -> None:
    rows = suite.rows(COUNT)
    assert share(suite, [""] * COUNT) == 0.0
    assert share(suite, ["I cannot answer that."] * COUNT) == 0.0
    shuffled = [row["completion"] for row in rows]
    random.Random(0).shuffle(shuffled)
    assert share(suite, shuffled) <= 0.03
    assert share(suite, [row["prompt"] for row in rows]) <= 0.02
    best = Counter(row["completion"] for row in rows).most_common(1)[0][0]
    assert share(suite, [best] * COUNT) <= 0.04
