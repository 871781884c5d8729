from __future__ import annotations

import random
from collections import Counter

import pytest

from veneer.data.lint import labels as module
from veneer.data.lint.labels import ROWS_PER_LABEL, Labels


def test_answers_are_counted_with_their_first_rows_over_all_chunks() -> None:
    rng = random.Random(11)
    answers = [rng.choice(["yes", "no", "Yes", None]) for _ in range(300)]
    labels = Labels()
    for first in range(0, 300, 70):
        labels.add(first, answers[first : first + 70])
    assert {text: spelling.count for text, spelling in labels.spellings.items()} == Counter(filter(None, answers))
    assert labels.long == answers.count(None)
    for text, spelling in labels.spellings.items():
        assert spelling.rows == [row for row, answer in enumerate(answers) if answer == text][:ROWS_PER_LABEL]
    assert not labels.overflown


def test_too_many_different_answers_are_no_labels_and_take_no_more_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LABELS", 3)
    labels = Labels()
    labels.add(0, ["a", "b", "c", "a"])
    assert not labels.overflown
    labels.add(4, ["d", "a"])
    assert labels.overflown
    assert {text: spelling.count for text, spelling in labels.spellings.items()} == {"a": 3, "b": 1, "c": 1}
