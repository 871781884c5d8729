from __future__ import annotations

import pytest

from veneer.evaluation.suites.constraints import CONSTRAINTS

WORDS = {"words": ["apple", "Oslo"], "count": 3}


@pytest.mark.parametrize(
    ("kind", "answer", "right"),
    [
        ("words", "Oslo has apple", True), ("words", "oslo apple", False), ("words", "Oslo an orange", False),
        ("words", "Oslo, apple 3", False), ("times", "apple, Apple, apple", True), ("times", "apple, apple", False),
        ("times", "apple apple apple", False), ("case", "AN APPLE IN OSLO!", True), ("case", "An apple in OSLO", False),
        ("case", "APPLES IN OSLO", False), ("ending", "An apple is in Oslo.", True),
        ("ending", "Oslo has an apple.", False), ("ending", "An apple is in Oslo", False),
        ("list", "1. apple\n2. x\n3. Oslo", True), ("list", "apple\nx\nOslo", False),
        ("list", "1. apple\n2. x\n3. y\n4. Oslo", False), ("list", "1. x\n2. apple\n3. Oslo", False),
    ],
)  # fmt: skip
def test_an_answer_is_right_if_it_keeps_its_constraint_whatever_it_says(kind: str, answer: str, right: bool) -> None:
    assert CONSTRAINTS.right(answer, {**WORDS, "kind": kind, "separator": ","}) is right
