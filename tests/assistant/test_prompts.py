"""Prompts of a file are its lines, and prompts that ask nothing are refused together."""

from __future__ import annotations

from pathlib import Path

import pytest

from veneer.assistant.prompts import check_prompts, lines_of, turns, under
from veneer.errors import DataError


def test_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "q").write_bytes("\ufeffa\r\nb b\u2028c\n\n \n d".encode())
    assert list(lines_of(tmp_path / "q")) == ["a", "b b\u2028c", " d"]


def test_every_prompt_that_asks_nothing_is_named_and_every_message_that_is_none() -> None:
    fine = turns("Be brief.", "Where?")
    assert [one["role"] for one in fine] == ["system", "user"]
    check_prompts(["Where?", fine, turns(None, "When?")])
    with pytest.raises(DataError, match=r"prompts are empty:\n  - prompt 1\n  - prompt 3\n  - prompt 4"):
        check_prompts(["Where?", "", fine, [], turns("Be brief.", "")])
    with pytest.raises(DataError, match=r"prompt 1, message 2: (.|\n)*prompt 2, message 1: "):
        check_prompts([fine, [*fine[:1], {"content": "Where?"}], [{"role": 1, "content": "Where?"}]])


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_comes_before_a_conversation_that_has_none(role: str) -> None:
    asked = [{"role": "user", "content": "Where?"}]
    assert under("Be brief.", asked) == turns("Be brief.", "Where?")
    assert under(None, asked) == asked
    own = [{"role": role, "content": "Be long."}, *asked]
    assert under("Be brief.", own) == own
