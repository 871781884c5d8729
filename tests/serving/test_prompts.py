"""Conversations become prompts, and one that stops the template's process stops nobody else's."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

import hostile_templates as hostile
from veneer.assistant.assistant import Assistant
from veneer.data.chat import Encoder, template_of
from veneer.serving.errors import ApiError
from veneer.serving.fields import Fields
from veneer.serving.prompts import PromptEncoder, read_messages

FAST = [{"role": "user", "content": "late?"}]
SLOW = [{"role": "user", "content": "slow"}]


def test_a_conversation_that_takes_too_long_ends_the_template_for_nobody_else(assistant: Assistant) -> None:
    plain = assistant.tokenizer.chat_template
    source = "{% if messages[0]['content'] == 'slow' %}" + hostile.UNCOUNTED[0] + "{% endif %}" + (plain or "")
    tokenizer = replace(assistant.tokenizer, chat_template=source)
    prompts = PromptEncoder(tokenizer, Encoder(tokenizer, template_of(tokenizer)), 512)
    want = tuple(assistant.encoder.prompt_tokens(FAST))
    assert asyncio.run(prompts.conversation(FAST)) == want
    for _ in range(2):
        with pytest.raises(ApiError, match="takes too long"):
            asyncio.run(prompts.conversation(SLOW))
        assert asyncio.run(prompts.conversation(FAST)) == want


def test_a_text_beyond_every_possible_prompt_is_refused_unread(assistant: Assistant) -> None:
    prompts = PromptEncoder(assistant.tokenizer, assistant.encoder, 512)
    longest = max(map(len, assistant.tokenizer.backend.get_vocab(with_added_tokens=True)))
    with pytest.raises(ApiError, match="characters are more") as caught:
        asyncio.run(prompts.text("a" * (512 * longest + 1), "prompt"))
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(ApiError, match="characters are more"):
        asyncio.run(prompts.conversation([{"role": "user", "content": "a" * (512 * longest + 1)}]))


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_thoughts_and_names_of_tools_reach_the_template_by_all_their_names(key: str) -> None:
    given = [
        {"role": "assistant", "content": "", key: "It rains."},
        {"role": "tool", "content": "rain", "tool_name": "weather"},
        {"role": "tool", "content": "rain", "tool_name": "weather", "name": "sky"},
    ]
    thought, result, both = read_messages(Fields({"messages": given}))
    assert thought[key] == "It rains."
    assert result["name"] == "weather"
    assert both["name"] == "sky"


def test_a_refusal_is_what_the_assistant_said() -> None:
    given = [
        {"role": "assistant", "content": None, "refusal": "I cannot."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I will not."}]},
        {"role": "assistant", "content": "Yes.", "refusal": None},
        {"role": "assistant", "content": None},
    ]
    found = [message["content"] for message in read_messages(Fields({"messages": given}))]
    assert found == ["I cannot.", "I will not.", "Yes.", ""]
    with pytest.raises(ApiError, match="refusal"):
        read_messages(Fields({"messages": [{"role": "assistant", "content": None, "refusal": 3}]}))
