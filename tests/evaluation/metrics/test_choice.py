from __future__ import annotations

import math

import pytest

from veneer.data.forms.record import Record
from veneer.errors import DataError
from veneer.evaluation.metrics.base import AnsweredRow
from veneer.evaluation.metrics.choice import FEW_LABELS, ChoiceRow, choice, choice_rows, choices_of, with_answer


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
        ({"choices": ["a", ""]}, "contains an empty text"),
        ({"choices": "a"}, "must be a list"), ({"choices": ["a"]}, "two texts or more"),
        ({"choices": ["a", 1]}, "two texts"), ({"choices": ["a", "a"]}, "twice"),
        ({"choices": ["b", "c"]}, "'a' is not among the choices"),
    ],
)  # fmt: skip
def test_choices_that_cannot_be_compared_are_refused(row: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        choices_of(row, "a", "f:3")


def test_rows_without_choices_have_the_labels() -> None:
    assert choices_of({"choices": ["a", "\n"]}, "a", "f:1") == ChoiceRow(("a", "\n"), 0)
    assert choices_of({}, "b", "f:1", ["a", "b"]) == ChoiceRow(("a", "b"), 1)


def answered(references: list[str], **row: object) -> list[AnsweredRow]:
    return [AnsweredRow(f"f:{number}", "", one, "", row) for number, one in enumerate(references, 1)]


def test_answers_of_all_rows_are_choices_where_they_are_few_or_look_like_labels() -> None:
    labels = tuple(f"label {number}" for number in range(77))
    found = choice_rows(answered([labels[number % 77] for number in range(1000)]))
    assert {one.choices for one in found} == {labels}
    assert [one.right for one in found[:3]] == [0, 1, 2]
    few = [f"a long answer {number} " * 9 for number in range(FEW_LABELS)]
    assert choice_rows(answered(few))[5] == ChoiceRow(tuple(few), 5)


@pytest.mark.parametrize(
    ("references", "count"),
    [
        ([str(number) for number in range(100)], "100 rows have 100 different answers of up to 2 characters"),
        ([f"{number % 30}{'x' * 60}" for number in range(900)], "900 rows have 30 different answers of up to 62"),
        ([str(number % 40) for number in range(100)], "100 rows have 40 different answers"),
    ],
    ids=["all differ", "long", "too few rows"],
)
def test_answers_that_are_no_labels_are_refused_where_every_one_would_be_compared_on_every_row(
    references: list[str], count: str
) -> None:
    with pytest.raises(DataError, match=rf"^choice: {count}.* 3 rows or more to each.*under the key 'choices'$"):
        choice_rows(answered(references))
    own = [AnsweredRow("f:1", "", one, "", {"choices": [one, "no"]}) for one in references]
    assert [one.right for one in choice_rows(own)] == [0] * len(references)


@pytest.mark.parametrize("listed", [(), ("blue", "red")])
def test_one_answer_of_all_rows_is_told_as_such_where_rows_list_no_choices(listed: tuple[str, ...]) -> None:
    rows = answered(["blue"] * 12)
    if listed:
        rows[0] = AnsweredRow("f:1", "", "blue", "", {"choices": list(listed)})
    with pytest.raises(DataError, match=r"^choice: 12 rows have the same answer, 'blue'\. .* under the key 'choices'$"):
        choice_rows(rows)
    assert choice_rows([]) == []


def test_only_the_last_answer_is_replaced_and_trains() -> None:
    turns = [("user", "q"), ("assistant", "x"), ("user", "r"), ("assistant", "y")]
    record = Record("f:1", messages=tuple({"role": role, "content": text} for role, text in turns))  # type: ignore[misc]
    changed = with_answer(record, "y", "z")
    assert [message["content"] for message in changed.messages] == ["q", "x", "r", "z"]
    assert changed.trained_turns == (3,)
    pair = Record("f:1", messages=record.messages[:2], prompt="q", completion="\n\nx")
    assert with_answer(pair, "x", "z").completion == "\n\nz"
