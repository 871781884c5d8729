"""Turns of either spelling; whole rows are read in test_formats.py."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest

from veneer.data.files.json_values import BadRow
from veneer.data.forms.formats import Remarks, to_record
from veneer.data.forms.turns import MARK_KEYS, SHAREGPT_ROLES, Turns, read_turns, refuse_written, string, system_turn

SPEAKERS = [speaker for speaker in SHAREGPT_ROLES if speaker != "function_call"]


def conversation(rng: random.Random, length: int = 6) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A conversation in both spellings."""
    openai: list[dict[str, Any]] = []
    sharegpt: list[dict[str, Any]] = []
    for index in range(length):
        speaker, text = rng.choice(SPEAKERS), f"text {index}"
        mark = {rng.choice(MARK_KEYS): rng.choice([0, 1, True, False])} if rng.random() < 0.5 else {}
        openai.append({"role": SHAREGPT_ROLES[speaker], "content": text, **mark})
        sharegpt.append({"from": speaker, "value": text, **mark})
    return openai, sharegpt


@pytest.mark.parametrize("seed", range(20))
def test_both_spellings_say_the_same(seed: int) -> None:
    openai, sharegpt = conversation(random.Random(seed))
    turns = read_turns(openai, "messages")
    assert turns == read_turns(sharegpt, "conversations")
    plain = [{"role": turn["role"], "content": turn["content"]} for turn in openai]
    assert list(turns.messages) == plain


@pytest.mark.parametrize("seed", range(20))
def test_marks_leave_out_turns_of_the_assistant_alone(seed: int) -> None:
    openai, _ = conversation(random.Random(100 + seed), 9)
    turns = read_turns(openai, "messages")
    flags = [next((bool(turn[mark]) for mark in MARK_KEYS if mark in turn), None) for turn in openai]
    spoken = [turn["role"] == "assistant" for turn in openai]
    assert turns.untrained == tuple(
        i for i, (flag, own) in enumerate(zip(flags, spoken, strict=True)) if own and flag is False
    )
    assert turns.marked is any(flag is True and not own for flag, own in zip(flags, spoken, strict=True))


def test_turns_that_are_joined_are_those_of_the_joined_list() -> None:
    rng = random.Random(8)
    for _ in range(20):
        (one, _), (other, _) = conversation(rng), conversation(rng)
        assert read_turns(one, "m") + read_turns(other, "m") == read_turns(one + other, "m")


def test_a_call_may_say_parameters_and_its_other_keys_are_said_to_be_unused() -> None:
    def called(value: str) -> Turns:
        return read_turns([{"from": "human", "value": "q"}, {"from": "function_call", "value": value}], "conversations")

    expected = called('{"name": "f", "arguments": {"x": 1}}')
    assert expected.messages[1]["tool_calls"][0]["function"]["arguments"] == {"x": 1}
    assert called('{"name": "f", "parameters": {"x": 1}}') == expected
    assert called('{"name": "f", "args": {"x": 1}}').unused == {"conversations[].value.args"}
    assert called('[{"name": "f"}]').messages[1]["tool_calls"][0]["function"]["arguments"] == {}
    with pytest.raises(BadRow, match="both arguments and parameters"):
        called('{"name": "f", "arguments": {}, "parameters": {}}')


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_an_answer_may_be_thoughts_alone(key: str) -> None:
    turns = read_turns(
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, key: "hm"}], "messages"
    )
    assert turns.messages[1] == {"role": "assistant", "content": "", key: "hm"}
    remarks = Remarks()
    to_record({"messages": list(turns.messages)}, "f:1", remarks)
    assert not remarks.empty
    with pytest.raises(BadRow, match="without content or tool calls"):
        read_turns([{"role": "assistant", "content": None, key: None}], "messages")


def test_context_trains_nothing() -> None:
    turns, _ = conversation(random.Random(4), 12)
    context = read_turns(turns, "m").as_context()
    assert context.untrained == tuple(i for i, turn in enumerate(turns) if turn["role"] == "assistant")


def test_what_is_read_does_not_change_the_row() -> None:
    row = [{"role": "developer", "content": [{"text": "a"}, {"text": "b"}], "weight": 1, "name": None}]
    before = repr(row)
    assert read_turns(row, "m").messages == ({"role": "system", "content": "ab"},)
    assert repr(row) == before


def test_keys_that_nothing_reads_are_named() -> None:
    assert read_turns([{"from": "gpt", "value": "x", "mood": 1, "id": 2}], "c").unused == {"c[].mood", "c[].id"}


def test_an_empty_system_text_is_no_turn() -> None:
    assert system_turn("") == Turns()
    assert system_turn("x").messages == ({"role": "system", "content": "x"},)


@pytest.mark.parametrize(
    ("row", "at", "reason"),
    [
        ({}, "", "the row has no key"),
        ({}, "m[1]", "m[1] has no key"),
        ({"key": 1}, "m[1]", "m[1].key must be a str"),
    ],
)
def test_a_missing_string_is_named_with_its_place(row: dict[str, Any], at: str, reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        string(row, "key", at)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "texts",
    [{"prompt": "[{'role': 'user', 'content': 'a'}]", "completion": "A talk of one turn."},
     {"prompt": '[{"value": 3}, {"value": 1}] Sort these.'}, {"prompt": '[{"value": 3}, {"value": 1}]'}, {"prompt": 3}],
)  # fmt: skip
def test_texts_that_are_no_lists_of_turns_are_texts(texts: dict[str, Any]) -> None:
    """Nor is a prompt beside another text, which may ask about one."""
    refuse_written(texts)


CALL = {"name": "find", "arguments": '{"city": "Rome"}'}


def test_a_call_in_openais_older_spelling_is_a_call_of_a_tool() -> None:
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "function_call": CALL, "tool_calls": None},
        {"role": "function", "name": "find", "content": "sunny"},
        {"role": "assistant", "content": "Let me see.", "function_call": {"name": "now", "arguments": None}},
    ]
    _, first, answer, second = read_turns(turns, "messages").messages
    assert first == {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]}
    assert answer == {"role": "tool", "name": "find", "content": "sunny"}
    assert second["tool_calls"] == [{"type": "function", "function": {"name": "now", "arguments": {}}}]
    assert "function_call" not in second


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"function_call": CALL, "tool_calls": [{"function": CALL}]}, "has both tool_calls and function_call"),
        ({"function_call": "auto"}, 'function_call must be {"name": ..., "arguments": ...}, not a string'),
    ],
)
def test_a_call_that_is_none_or_stands_twice_is_refused(more: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow, match=re.escape(reason)):
        read_turns([{"role": "assistant", "content": "a", **more}], "messages")


@pytest.mark.parametrize(
    ("call", "arguments"),
    [({"arguments": {"a": 1}, "parameters": None}, {"a": 1}), ({"arguments": None}, {}), ({"parameters": [1]}, [1])],
)
def test_what_is_null_in_a_call_of_sharegpt_counts_as_absent(call: dict[str, Any], arguments: Any) -> None:
    turns = [{"from": "function_call", "value": json.dumps({"name": "find", **call})}]
    [message] = read_turns(turns, "conversations").messages
    assert message["tool_calls"] == [{"type": "function", "function": {"name": "find", "arguments": arguments}}]
