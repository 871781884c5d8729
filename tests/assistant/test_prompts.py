"""Prompts become conversations, and those that ask nothing are refused together."""

from __future__ import annotations

from typing import Any

import pytest

from veneer.assistant.prompts import read_prompts, turns, under
from veneer.errors import ConfigError, DataError


def test_every_prompt_that_asks_nothing_is_named_and_every_message_that_is_none() -> None:
    fine = turns("Be brief.", "Where?")
    assert [one["role"] for one in fine] == ["system", "user"]
    assert read_prompts(["Where?", fine], "Hush.") == [turns("Hush.", "Where?"), fine]
    with pytest.raises(DataError, match=r"prompts are empty:\n  - prompt 2\n  - prompt 4\n  - prompt 5"):
        read_prompts(["Where?", "", fine, [], turns("Be brief.", "")], None)
    with pytest.raises(DataError, match=r"prompt 2, message 2: (.|\n)*prompt 3, message 1: "):
        read_prompts([fine, [*fine[:1], {"content": "Where?"}], [{"role": 1, "content": "Where?"}]], None)


def test_text_parts_of_messages_are_joined_as_in_rows() -> None:
    parts = [{"type": "text", "text": "Where"}, {"text": "?"}]
    asked = [{"role": "user", "content": parts}]
    assert read_prompts(iter(["When?", asked]), None) == [turns(None, "When?"), turns(None, "Where?")]
    assert asked[0]["content"] is parts
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]
    with pytest.raises(DataError, match=r"prompt 2, message 1: its content must be a text, got \[.*image_url"):
        read_prompts(["When?", image], None)


def test_what_is_no_list_of_prompts_is_refused_with_the_remedy() -> None:
    one: Any = turns("Be brief.", "Where?")
    with pytest.raises(ConfigError, match=r"the messages of one conversation; give a list of conversations: \[\["):
        read_prompts(one, None)
    with pytest.raises(ConfigError, match=r"^prompts: must be a list \(each a text or a list"):
        read_prompts([3], None)  # type: ignore[list-item]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_comes_before_a_conversation_that_has_none(role: str) -> None:
    asked = [{"role": "user", "content": "Where?"}]
    assert under("Be brief.", asked) == turns("Be brief.", "Where?")
    assert under(None, asked) == asked
    own = [{"role": role, "content": "Be long."}, *asked]
    assert under("Be brief.", own) == own
