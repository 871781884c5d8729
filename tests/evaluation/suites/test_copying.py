from __future__ import annotations

import random

import pytest

from veneer.evaluation.suites.copying import COPYING


def test_the_line_stands_in_the_prompt_and_is_right_as_it_is() -> None:
    source = random.Random(4)
    for _ in range(100):
        item = COPYING.make(source)
        assert item.prompt.splitlines()[-1] == item.check["text"]
        assert COPYING.right(item.check["text"], item.check)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("a B1", True), (" a B1\n", True), ("`a B1`", True), ('"a B1"', True), ("a b1", False), ("a  B1", False),
        ("a B1.", False), ("Here it is: a B1", False), ("", False),
    ],
)  # fmt: skip
def test_every_character_counts_but_quotes_and_space_around(answer: str, right: bool) -> None:
    assert COPYING.right(answer, {"text": "a B1"}) is right
