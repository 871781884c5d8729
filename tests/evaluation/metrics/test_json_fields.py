from __future__ import annotations

import json
import random

import pytest

from veneer.evaluation.metrics.base import AnsweredRow
from veneer.evaluation.metrics.json_fields import json_fields


def row(reference: object, answer: object) -> AnsweredRow:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return AnsweredRow("f:1", "", json.dumps(reference), text)


def test_what_is_not_right_is_told_apart() -> None:
    rows = [
        row({"a": 1, "b": "x", "c": None, "d": 4}, {"a": 1, "b": None, "c": None, "e": 0}),
        row({"a": 1, "b": "y"}, {"a": 1.0, "b": "y"}),
        row({"a": 1}, "no JSON"),
    ]
    found = json_fields(rows)
    assert found.details["fields"] == {
        "a": {"right": 1, "absent": 1, "null": 0, "wrong": 1, "extra": 0},
        "b": {"right": 1, "absent": 0, "null": 1, "wrong": 0, "extra": 0},
        "c": {"right": 1, "absent": 0, "null": 0, "wrong": 0, "extra": 0},
        "d": {"right": 0, "absent": 1, "null": 0, "wrong": 0, "extra": 0},
        "e": {"right": 0, "absent": 0, "null": 0, "wrong": 0, "extra": 1},
    }
    values = {one.name: one.total for one in found.measures}
    assert values == pytest.approx(
        {"json_valid": 2 / 3, "json_precision": 3 / 6, "json_recall": 3 / 7, "json_f1": 6 / 13}
    )


def test_precision_and_recall_are_those_of_pairs_of_key_and_value() -> None:
    """Against sets: a field is the pair of its key and its value."""
    source = random.Random(0)
    rows, right, given, expected = [], 0, 0, 0
    for _ in range(60):
        reference, answer = (
            {key: source.choice([1, "1", None, [2], True]) for key in source.sample("abcdef", source.randint(1, 6))}
            for _ in range(2)
        )
        rows.append(row(reference, answer))
        sets = [{(key, json.dumps(value)) for key, value in one.items()} for one in (reference, answer)]
        right, given, expected = right + len(sets[0] & sets[1]), given + len(sets[1]), expected + len(sets[0])
    values = {one.name: one.total for one in json_fields(rows).measures}
    assert values["json_precision"] == pytest.approx(right / given)
    assert values["json_recall"] == pytest.approx(right / expected)
    assert values["json_f1"] == pytest.approx(2 * right / (given + expected))
    assert values["json_valid"] == 1.0


def test_rows_without_a_json_reference_do_not_count() -> None:
    rows = [AnsweredRow("f:1", "", "plain", '{"a": 1}'), row({"a": 1}, {"a": 1})]
    assert {one.name: one.total for one in json_fields(rows).measures} == dict.fromkeys(
        ("json_valid", "json_precision", "json_recall", "json_f1"), 1.0
    )
    assert json_fields(rows[:1]).measures == []
    assert [one.name for one in json_fields([row({}, "{}")]).measures] == ["json_valid"]


def test_a_model_that_gives_no_field_has_precision_0() -> None:
    """A base that answers no JSON is compared with its adapter by every measure."""
    assert {one.name: one.total for one in json_fields([row({"a": 1}, "?")]).measures} == dict.fromkeys(
        ("json_valid", "json_precision", "json_recall", "json_f1"), 0.0
    )
