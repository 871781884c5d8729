"""Conversations become prompts, and one that stops the template's process stops nobody else's."""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace
from threading import Event, Semaphore, current_thread
from typing import Any

import pytest

from helpers.texts import hostile_templates as hostile
from veneer.assistant.assistant import Assistant
from veneer.data.encoded.chat import Encoder, template_of
from veneer.http_server.body import MOST_JSON_VALUES
from veneer.http_server.errors import ApiError
from veneer.http_server.fields import Fields
from veneer.io.tokenizer import Tokenizer
from veneer.serving.prompts import LONG_TEXT_SIZE, PromptEncoder, read_messages

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


@pytest.mark.parametrize(
    "key", ["reasoning_content", "name", "tool_call_id", "arguments", "keys", "numbers", "empty", "objects"]
)
def test_all_that_a_template_may_write_is_counted_before_anything_is_encoded(assistant: Assistant, key: str) -> None:
    source = (assistant.tokenizer.chat_template or "") + "{# tool_calls #}"
    prompts = PromptEncoder(replace(assistant.tokenizer, chat_template=source), assistant.encoder, 512)
    longest = max(map(len, assistant.tokenizer.backend.get_vocab(with_added_tokens=True)))
    text = "a" * (512 * longest + 1)
    values = {"arguments": {"a": text}, "keys": {text: 1}, "numbers": {"a": [0] * len(text)}}
    values |= {"empty": {"a": [[]] * (len(text) // 2)}, "objects": {"a": [{}] * (len(text) // 2)}}
    given: dict[str, object] = {"role": "assistant", "content": "hi", key: text}
    if key in values:
        given = {"role": "assistant", "tool_calls": [{"function": {"name": "t", "arguments": values[key]}}]}
    with pytest.raises(ApiError, match="characters are more"):
        asyncio.run(prompts.conversation(read_messages(Fields({"messages": [given]}))))


def test_what_a_request_says_is_read_beside_the_event_loops_thread(assistant: Assistant) -> None:
    """Its messages may be megabytes, those within the arguments of calls among them."""
    prompts, threads = PromptEncoder(assistant.tokenizer, assistant.encoder, 512), set[str]()

    class Watched(Fields):
        def items(self, name: str) -> list[Any] | None:
            threads.add(current_thread().name)
            return super().items(name)

    conversation = asyncio.run(prompts.read(Watched({"messages": FAST})))
    assert conversation.messages == FAST
    assert [name.startswith("asyncio_") for name in threads] == [True]


def test_arguments_of_more_values_than_anybody_needs_are_refused_unread() -> None:
    arguments = '{"a": [' + ",".join(["[]"] * (MOST_JSON_VALUES + 1)) + "]}"
    turn = {"role": "assistant", "tool_calls": [{"function": {"name": "t", "arguments": arguments}}]}
    with pytest.raises(ApiError, match="300,000 texts, lists and objects"):
        read_messages(Fields({"messages": [turn]}))


def test_short_texts_wait_for_no_long_ones(assistant: Assistant) -> None:
    """Long ones take threads of their own, two at a time."""
    begun, free = Semaphore(0), Event()

    class Waiting(Tokenizer):
        def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
            return [len(text)]

        def encode_aside(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
            begun.release()
            assert free.wait(60)
            return [len(text)]

    values = {one.name: getattr(assistant.tokenizer, one.name) for one in fields(Tokenizer)}
    prompts = PromptEncoder(Waiting(**values), assistant.encoder, 10**6)

    async def asked() -> None:
        long = [asyncio.create_task(prompts.text("a" * LONG_TEXT_SIZE, "prompt")) for _ in range(64)]
        await asyncio.to_thread(begun.acquire)
        await asyncio.to_thread(begun.acquire)
        assert await asyncio.wait_for(prompts.text("a", "prompt"), 30) == (1,)
        assert not begun.acquire(blocking=False)
        free.set()
        assert await asyncio.gather(*long) == [(LONG_TEXT_SIZE,)] * 64

    asyncio.run(asked())


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
