"""Prompts of a file are its lines, and prompts that ask nothing are refused together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from veneer.assistant.prompts import check_prompts, lines_of, read_prompts, turns, under
from veneer.errors import ConfigError, DataError


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


def test_text_parts_of_messages_are_joined_as_in_rows() -> None:
    parts = [{"type": "text", "text": "Where"}, {"text": "?"}]
    asked = [{"role": "user", "content": parts}]
    assert read_prompts(iter(["When?", asked])) == ["When?", turns(None, "Where?")]
    assert asked[0]["content"] is parts
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]
    with pytest.raises(DataError, match=r"prompt 1, message 1: its content must be a text, got \[.*image_url"):
        check_prompts(read_prompts(["When?", image]))


def test_what_is_no_list_of_prompts_is_refused_with_the_remedy() -> None:
    one: Any = turns("Be brief.", "Where?")
    with pytest.raises(ConfigError, match=r"the messages of one conversation; give a list of conversations: \[\["):
        read_prompts(one)
    with pytest.raises(ConfigError, match=r"^prompts: must be a list \(each a text or a list"):
        read_prompts([3])  # type: ignore[list-item]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_comes_before_a_conversation_that_has_none(role: str) -> None:
    asked = [{"role": "user", "content": "Where?"}]
    assert under("Be brief.", asked) == turns("Be brief.", "Where?")
    assert under(None, asked) == asked
    own = [{"role": role, "content": "Be long."}, *asked]
    assert under("Be brief.", own) == own
