from __future__ import annotations

import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from helpers.servers.endpoints import endpoint, said
from helpers.servers.served import BASE, serving, tiny_assistant
from veneer.data.forms.turns import Message
from veneer.errors import ConfigError
from veneer.evaluation.judge.ahead import HOPELESS
from veneer.evaluation.judge.endpoint import EndpointAnswerer, LocalAnswerer, read_key, seconds_told


def answerer(url: str, **changes: Any) -> EndpointAnswerer:
    values = {"model": "m", "key": None, "max_tokens": 9, "at_once": 2, "retries": 2, "pause": 0.01} | changes
    return EndpointAnswerer(url=url, **values)


def conversation(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def test_questions_are_answered_and_busy_endpoints_asked_again() -> None:
    seen: list[str] = []

    def reply(content: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        text = content["messages"][0]["content"]
        seen.append(text)
        assert headers["authorization"] == "Bearer secret"
        assert (content["model"], content["max_tokens"], content["temperature"]) == ("m", 9, 0)
        if text == "busy" and seen.count("busy") < 3:
            return 429, {"error": {"message": "later"}}
        return said(text.upper())

    answers: dict[int, str] = {}
    with endpoint(reply) as url:
        problems = answerer(url, key="secret").answer(
            [conversation(text) for text in ("a", "busy", "c")], answers.__setitem__
        )
    assert problems == {}
    assert answers == {0: "A", 1: "BUSY", 2: "C"}
    assert seen.count("busy") == 3


def test_what_has_no_answer_is_told_by_its_number_with_the_reason() -> None:
    replies = {
        "bad": (400, {"error": {"message": "too long"}}), "odd": (200, b"<html>"), "down": (503, b"soon"),
        "empty": (200, {"choices": [{"message": {"content": None}}]}),
    }  # fmt: skip

    def reply(content: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        return replies.get(content["messages"][0]["content"], said("yes"))

    answers: dict[int, str] = {}
    with endpoint(reply) as url:
        texts = ["bad", "odd", "down", "empty", "fine"]
        problems = answerer(url).answer([conversation(text) for text in texts], answers.__setitem__)
    assert answers == {4: "yes"}
    for number, part in enumerate(("400: too long", "cannot be read", "503: soon", "has no text")):
        assert part in problems[number]
    assert "cannot be reached" in answerer("http://127.0.0.1:9/v1", retries=0).answer([conversation("x")], print)[0]


def test_an_endpoint_is_left_alone_for_as_long_as_it_says() -> None:
    asked: list[float] = []

    def reply(content: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        asked.append(time.monotonic())
        return (429, {}, {"Retry-After": "1"}) if len(asked) == 1 else (*said("yes"), {})

    with endpoint(reply) as url:
        assert answerer(url).answer([conversation("x")], lambda number, text: None) == {}
    assert asked[1] - asked[0] >= 1.0


def test_what_retry_after_may_say() -> None:
    assert (seconds_told(None), seconds_told("soon"), seconds_told(" 20 "), seconds_told("0.5")) == (0, 0, 20, 0.5)
    assert 50 < seconds_told(formatdate(time.time() + 60, usegmt=True)) <= 60
    assert seconds_told(formatdate(0, usegmt=True)) == 0


def test_answers_that_no_file_can_hold_and_bodies_too_deep_to_read() -> None:
    replies = {
        "half": (200, b'{"choices": [{"message": {"content": "\\ud800 yes"}}]}'), "deep": (200, b"[" * 200_000),
        "deep error": (400, b"[" * 200_000), "error": (200, {"error": {"message": "no such model"}}),
    }  # fmt: skip
    answers: dict[int, str] = {}
    with endpoint(lambda content, headers: replies[content["messages"][0]["content"]]) as url:
        problems = answerer(url).answer([conversation(text) for text in replies], answers.__setitem__)
    assert answers == {0: "? yes"}
    assert "cannot be read" in problems[1]
    assert "400: [[[" in problems[2]
    assert "It said: no such model" in problems[3]


def test_a_refused_key_is_not_tried_with_every_question() -> None:
    count = []

    def reply(content: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        count.append(1)
        return 401, {"error": {"message": "no such key"}}

    with endpoint(reply) as url:
        problems = answerer(url, at_once=1).answer([conversation(str(n)) for n in range(50)], print)
    assert len(problems) == 50
    assert len(count) < 10
    assert "401: no such key" in problems[0]


def test_veneers_own_server_and_the_model_in_memory_give_the_same_answers(tiny_model: Path) -> None:
    assistant = tiny_assistant(tiny_model)
    asked = [conversation(text) for text in ("the crate?", "late parcel?", "what?")]
    remote: dict[int, str] = {}
    local: dict[int, str] = {}
    with serving(assistant) as (server, _):
        url = f"http://127.0.0.1:{server.port}/v1"
        assert answerer(url, model=BASE).answer(asked, remote.__setitem__) == {}
    assert LocalAnswerer(assistant, 9).answer(asked, local.__setitem__) == {}
    assert local == remote
    assert sorted(local) == [0, 1, 2]


def test_a_model_in_memory_tells_every_answer_as_it_ends(tiny_model: Path) -> None:
    told: list[int] = []

    def keep(number: int, answer: str) -> None:
        told.append(number)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalAnswerer(tiny_assistant(tiny_model), 9).answer([conversation(text) for text in ("a", "b", "c")], keep)
    assert told, "an answer that has ended is recorded before the others have"


def test_a_model_in_memory_answers_within_its_context(tiny_model: Path) -> None:
    assistant = tiny_assistant(tiny_model)
    context = assistant.model.spec.max_positions
    full = conversation("parcel " * context)
    tokens = 0
    while (left := context - len(assistant.encoder.prompt_tokens(conversation("x" * tokens)))) > 4:
        tokens += max(1, left // 8)
    answers: dict[int, str] = {}
    problems = LocalAnswerer(assistant, 9).answer(
        [full, conversation("x" * tokens), conversation("a")], answers.__setitem__
    )
    assert list(problems) == [0]
    assert f"context has {context:,} tokens" in problems[0]
    assert sorted(answers) == [1, 2]
    assert len(assistant.tokenizer.encode(answers[1])) <= left
    with pytest.raises(ConfigError, match="max_new_tokens: 513"):
        LocalAnswerer(assistant, context + 1).answer([conversation("a")], answers.__setitem__)


def test_keys_stand_in_files(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("abc\n")
    assert read_key(file) == "abc"
    assert read_key(None) is None
    file.write_text("two\nlines")
    with pytest.raises(ConfigError, match="does not contain a key"):
        read_key(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(tmp_path / "absent")


def test_parameters_that_newer_models_refuse_are_not_sent_again() -> None:
    sent: list[set[str]] = []

    def reply(content: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        sent.append(set(content) - {"model", "messages"})
        if "max_tokens" in content:
            said_of = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
            return 400, {"error": {"message": f"Unsupported parameter: {said_of}"}}
        if "temperature" in content:
            return 400, {"error": {"message": "Unsupported value: 'temperature' does not support 0 with this model."}}
        assert content["max_completion_tokens"] == 9
        return 200, {"choices": [{"message": {"content": [{"type": "text", "text": "yes"}]}}]}

    answers: dict[int, str] = {}
    with endpoint(reply) as url:
        problems = answerer(url, at_once=1).answer([conversation(text) for text in "abc"], answers.__setitem__)
    assert (problems, answers) == ({}, dict.fromkeys(range(3), "yes"))
    assert sent[:2] == [{"max_tokens", "temperature"}, {"max_completion_tokens", "temperature"}]
    assert sent[2:] == [{"max_completion_tokens"}] * 3


def test_an_answer_that_is_too_long_to_ask_for_is_refused_as_it_was() -> None:
    sent: list[int] = []

    def reply(content: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        sent.append(content["max_tokens"])
        return 400, {"error": {"message": "'max_tokens' is too large: 9"}}

    with endpoint(reply) as url:
        problems = answerer(url, at_once=1).answer([conversation(text) for text in "ab"], print)
    assert len(problems) == len(sent) == 2


def test_an_endpoint_that_refuses_every_question_is_not_asked_all() -> None:
    asked: list[int] = []

    def reply(content: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        asked.append(1)
        return 400, {"error": {"message": "no such thing"}}

    with endpoint(reply) as url:
        problems = answerer(url).answer([conversation(str(number)) for number in range(200)], print)
    assert HOPELESS <= len(asked) < 40
    assert len(problems) == 200
    assert list(problems.values()).count("not asked, after the others were refused") == 200 - len(asked)
