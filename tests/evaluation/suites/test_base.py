from __future__ import annotations

import pytest

from veneer.evaluation.suites.base import unfenced


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ('```json\n{"a": 1}\n```', '{"a": 1}'), ('```\n{"a": 1}\n``` ', '{"a": 1}'), (' {"a": 1}\n', '{"a": 1}'),
        ("``````", "``````"), ("say ```x```", "say ```x```"),
    ],
)  # fmt: skip
def test_a_fence_around_an_answer_is_passed_over(text: str, inside: str) -> None:
    assert unfenced(text) == inside
