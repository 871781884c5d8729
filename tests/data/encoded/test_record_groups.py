"""Records are sent in groups that are bounded by their number and by their characters."""

from __future__ import annotations

import pytest

from veneer.data.encoded import record_groups as groups
from veneer.data.encoded.record_groups import record_groups
from veneer.data.forms.record import Record


def test_groups_hold_so_many_rows_or_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "GROUP_CHARACTERS", 10)
    records = [Record(f"f:{number}", text="x" * size) for number, size in enumerate([1, 1, 1, 2, 30, 4, 4])]
    found = [[len(one.text or "") for one in group] for group in record_groups(records, 3)]
    assert found == [[1, 1, 1], [2, 30], [4, 4]]


def test_the_characters_of_a_conversation_are_those_of_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "GROUP_CHARACTERS", 10)
    turns = ({"role": "user", "content": "1234"}, {"role": "assistant", "content": "567"})
    records = [Record(f"f:{number}", messages=turns) for number in range(5)]
    assert [len(group) for group in record_groups(records, 64)] == [2, 2, 1]
