from __future__ import annotations

import math

import pytest

from veneer.data.records import Record
from veneer.errors import DataError
from veneer.evaluation.metrics.choice import ChoiceRow, choice, choices_of, with_answer


def test_the_likeliest_choice_is_the_answer() -> None:
    rows = [ChoiceRow(("a", "bb"), 0), ChoiceRow(("a", "bbbb"), 1)]
    found = choice(rows, [[1.0, 1.5], [1.0, 1.2]])
    values = {one.name: one.total for one in found.measures}
    # By the sum both answers are "a"; by the byte "bb" and "bbbb" are likelier (0.75 and 0.3 nats a byte).
    assert values["choice_accuracy"] == 0.5
    assert values["choice_accuracy_per_byte"] == 0.5
    assert choice(rows[1:], [[1.0, 1.2]]).measures[1].total == 1.0
    shares = [math.exp(-1) / (math.exp(-1) + math.exp(-1.5)), math.exp(-1.2) / (math.exp(-1) + math.exp(-1.2))]
    assert values["brier"] == pytest.approx(sum(2 * (1 - share) ** 2 for share in shares) / 2)
    assert found.details["calibration"]["bins"][0]["right"] == 0.5


def test_very_unlikely_choices_still_have_shares() -> None:
    values = {one.name: one.total for one in choice([ChoiceRow(("a", "b"), 1)], [[5000.0, 4000.0]]).measures}
    assert values["choice_accuracy"] == 1.0
    assert values["brier"] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": "a"}, "must be a list"), ({"choices": ["a"]}, "two texts or more"),
        ({"choices": ["a", " "]}, "two texts"), ({"choices": ["a", "a"]}, "twice"),
        ({"choices": ["b", "c"]}, "'a' is none of the choices"),
    ],
)  # fmt: skip
def test_choices_that_cannot_be_compared_are_refused(row: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        choices_of(row, "a", "f:3")


def test_rows_without_choices_have_the_labels() -> None:
    assert choices_of({}, "b", "f:1", ["a", "b"]) == ChoiceRow(("a", "b"), 1)


def test_only_the_last_answer_is_replaced_and_trains() -> None:
    turns = [("user", "q"), ("assistant", "x"), ("user", "r"), ("assistant", "y")]
    record = Record("f:1", messages=tuple({"role": role, "content": text} for role, text in turns))  # type: ignore[misc]
    changed = with_answer(record, "y", "z")
    assert [message["content"] for message in changed.messages] == ["q", "x", "r", "z"]
    assert changed.trained_turns == (3,)
    pair = Record("f:1", messages=record.messages[:2], prompt="q", completion="\n\nx")
    assert with_answer(pair, "x", "z").completion == "\n\nz"
