from __future__ import annotations

import random
import string
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.rows.lint_rows import found_in, sentence, write
from veneer.data.lint.checks.label_spelling import alike, slips
from veneer.data.lint.labels import Labels, Spelling
from veneer.data.lint.run import lint


def distance(one: str, other: str) -> int:
    """Letters put in, left out, changed or swapped with the next, by the table of optimal string alignment."""
    table = {(i, 0): i for i in range(len(one) + 1)} | {(0, j): j for j in range(len(other) + 1)}
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            same = one[i - 1] == other[j - 1]
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (not same))
            if i > 1 and j > 1 and one[i - 2 : i] == other[j - 2 : j][::-1]:
                table[i, j] = min(table[i, j], table[i - 2, j - 2] + 1)
    return table[len(one), len(other)]


@given(st.text("abc", min_size=5, max_size=8), st.text("abc", min_size=5, max_size=8))
def test_one_letter_is_what_the_table_says(one: str, other: str) -> None:
    assert alike(one, other) is (distance(one, other) <= 1)


@given(st.text("abc", min_size=5, max_size=8), st.integers(0, 8), st.sampled_from(["", "a", "b"]), st.integers(0, 1))
def test_one_slip_is_found_wherever_it_is(one: str, at: int, put: str, left_out: int) -> None:
    other = one[:at] + put + one[at + left_out :]
    assert alike(one, other) is (len(other) >= 5)


def counted(labels: list[str], counts: list[int]) -> Labels:
    return Labels({label: Spelling(count) for label, count in zip(labels, counts, strict=True)})


@given(st.lists(st.text("abC1_", min_size=1, max_size=8), min_size=2, max_size=20, unique=True))
def test_what_is_found_is_what_comparing_all_with_all_finds(labels: list[str]) -> None:
    counts = [12 if number % 2 else 1 for number in range(len(labels))]
    frequent = [label for label, count in zip(labels, counts, strict=True) if count == 12]
    rare = [label for label, count in zip(labels, counts, strict=True) if count == 1]
    nearest = {label: next((one for one in frequent if alike(label, one)), None) for label in rare}
    assert [said for _, said in slips(counted(labels, counts))] == [
        f"{label!r} on 1 row, {other!r} on 12" for label, other in nearest.items() if other is not None
    ]


def test_thousands_of_labels_are_compared_in_seconds() -> None:
    source = random.Random(0)
    labels = ["".join(source.choices(string.ascii_lowercase, k=12)) for _ in range(6_500)]
    begun = time.process_time()
    list(slips(counted(labels, [10] * 1_500 + [1] * 5_000)))
    assert time.process_time() - begun < 4


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Card Arrival", "card_arrival", True), ("level_1", "level_2", False), ("yes", "yet", False),
        ("!", "?", False), ("refund10", "refund1", False), ("Refund", "refunds", True),
    ],
)  # fmt: skip
def test_case_separators_and_a_plural_make_labels_alike_and_digits_do_not(one: str, other: str, same: bool) -> None:
    assert alike(one, other) is same


def test_slips_of_the_pen_in_labels_are_found(tmp_path: Path) -> None:
    names = ["card_arrival", "lost_card", "level_1", "level_2", "pin"]
    rows = [{"prompt": sentence(i), "completion": names[i % 5]} for i in range(100)]
    rows[7]["completion"], rows[12]["completion"], rows[30]["completion"] = "Level 1", "Lost Card", "card_arival"
    rows[44]["completion"] = "level_3"
    found = found_in(lint(write(tmp_path / "rows.jsonl", rows)))
    assert found == {"label-spelling": ["rows.jsonl:8", "rows.jsonl:13", "rows.jsonl:31"]}
