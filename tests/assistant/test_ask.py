from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import veneer

FLOAT32 = veneer.ComputeSection(device="cpu", dtype="float32")


def test_one_question_has_one_answer_and_a_list_has_as_many_as_it_is_long(tiny_model: Path) -> None:
    sampling = veneer.Sampling(max_new_tokens=4)
    pieces: list[str] = []
    one = veneer.generate(str(tiny_model), "Where?", sampling=sampling, compute=FLOAT32, on_text=pieces.append)
    asked: list[Any] = ["Where?", [{"role": "user", "content": "When?"}]]
    several = veneer.generate(str(tiny_model), asked, sampling=sampling, compute=FLOAT32)
    assert one == several[0] == "".join(pieces)
    assert len(several) == 2


@pytest.mark.parametrize("prompts", ["", ["a", ""], ["", "b", []]])
def test_empty_prompts_are_all_named_before_a_model_is_opened(prompts: Any) -> None:
    with pytest.raises(veneer.DataError) as caught:
        veneer.generate("no-such-model", prompts)
    empty = [prompts] if isinstance(prompts, str) else prompts
    named = [line.strip(" -") for line in str(caught.value).splitlines()[1:]]
    assert named == [f"prompt {number}" for number, one in enumerate(empty, start=1) if not one]


def test_messages_that_are_none_are_all_named_before_a_model_is_opened() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}
    asked: list[Any] = [
        "Where?",
        [{"role": "user", "contents": "When?"}],
        [{"role": "user", "content": "Who?"}, called, {"content": "me"}],
        [{"role": "user", "content": None}, {"role": "user", "content": ["Why?"]}],
    ]
    with pytest.raises(veneer.DataError) as caught:
        veneer.generate("no-such-model", asked)
    assert [line.strip(" -") for line in str(caught.value).splitlines()[1:]] == [
        "prompt 2, message 1: it has no content that is a text; it has 'contents' (did you mean 'content'?)",
        "prompt 3, message 3: it has no role that is a text",
        "prompt 4, message 1: it has no content that is a text",
        "prompt 4, message 2: its content must be a text, got ['Why?']",
    ]
    with pytest.raises(veneer.DataError, match="the prompts are empty:\n  - prompt 1"):
        veneer.generate("no-such-model", [[{"role": "system", "content": "Hush."}, {"role": "user", "content": ""}]])


def test_a_question_and_a_conversation_have_the_system_message_alike(tiny_model: Path) -> None:
    asked = ["hello", [{"role": "user", "content": "hello"}]]
    options = {"sampling": veneer.Sampling(max_new_tokens=8), "compute": FLOAT32}
    by_text, by_turns = veneer.generate(str(tiny_model), asked, system="Be brief, and say what it is.", **options)
    without = veneer.generate(str(tiny_model), asked[1:], **options)
    assert by_text == by_turns
    assert by_turns not in without


def test_a_conversation_refuses_an_empty_message(tiny_model: Path) -> None:
    talk = veneer.chat(str(tiny_model), sampling=veneer.Sampling(max_new_tokens=3), compute=FLOAT32)
    with pytest.raises(veneer.DataError, match="the message is empty"):
        talk.say("")
    with pytest.raises(veneer.DataError, match="message 1: it has no content"):
        talk.assistant.stream([{"role": "user", "contents": "When?"}], talk.sampling, print)
    assert talk.messages == []


def test_a_conversation_remembers_what_was_said(tiny_model: Path) -> None:
    talk = veneer.chat(str(tiny_model), system="Hush.", sampling=veneer.Sampling(max_new_tokens=3), compute=FLOAT32)
    first, second = talk.say("Where?"), talk.say("When?")
    assert talk.messages == [
        {"role": "system", "content": "Hush."},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": second},
    ]
