"""Tokens of texts and conversations over HTTP are the tokenizer's and the template's."""

from __future__ import annotations

from collections.abc import Sequence
from threading import current_thread
from typing import Any

import pytest

from helpers.servers.served import BASE, call
from veneer.assistant.assistant import Assistant
from veneer.http_server.server import HttpServer
from veneer.io.tokenizer import Tokenizer
from veneer.serving import prompts
from veneer.serving.service import Service


def test_texts_become_tokens_and_come_back(server: HttpServer, assistant: Assistant) -> None:
    text = "The parcel is late: 7 crates, größer."
    _, _, found = call(server, "POST", "/tokenize", {"prompt": text, "return_token_strs": True})
    assert found["tokens"] == assistant.tokenizer.encode(text, add_special_tokens=True)
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] == 512
    assert call(server, "POST", "/detokenize", {"model": BASE, "tokens": found["tokens"]})[2] == {"prompt": text}
    assert call(server, "POST", "/tokenize", {"prompt": ""})[2]["tokens"] == []


def test_the_tokenizer_says_its_control_tokens_and_its_template(server: HttpServer, assistant: Assistant) -> None:
    status, _, told = call(server, "GET", "/tokenizer_info")
    tokenizer = assistant.tokenizer
    assert (status, told["chat_template"], told["eos_token"]) == (200, tokenizer.chat_template, tokenizer.eos_token)
    assert (told["add_bos_token"], told["model_max_length"]) == (tokenizer.add_bos, 512)


def test_the_strings_of_many_tokens_hold_up_nobody(
    server: HttpServer, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are made beside the event loop's thread, and those of a token once."""
    asked, threads, found = list[int](), set[str](), service.token_bytes

    def token_bytes(token: int) -> bytes:
        asked.append(token)
        threads.add(current_thread().name)
        return found(token)

    monkeypatch.setattr(service, "token_bytes", token_bytes)
    _, _, told = call(server, "POST", "/tokenize", {"prompt": "late, late, late", "return_token_strs": True})
    assert "".join(told["token_strs"]) == "late, late, late"
    assert sorted(asked) == sorted(set(told["tokens"]))
    assert all(name.startswith("asyncio_") for name in threads)


def test_the_text_of_many_tokens_holds_up_nobody(
    server: HttpServer, assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "LONG_TEXT_SIZE", 5)
    tokens, threads, decode_aside = assistant.tokenizer.encode("late, late, late"), set[str](), Tokenizer.decode_aside

    def decoded(self: Tokenizer, ids: Sequence[int]) -> str:
        threads.add(current_thread().name)
        return decode_aside(self, ids)

    monkeypatch.setattr(Tokenizer, "decode_aside", decoded)
    assert call(server, "POST", "/detokenize", {"tokens": tokens})[2] == {"prompt": "late, late, late"}
    assert [name.startswith("asyncio_") for name in threads] == [True]
    assert call(server, "POST", "/v1/completions", {"model": BASE, "prompt": tokens, "max_tokens": 1})[0] == 200


def test_more_tokens_than_the_context_are_counted_and_come_back(server: HttpServer, assistant: Assistant) -> None:
    text = "The parcel is late. " * 300
    status, _, found = call(server, "POST", "/tokenize", {"prompt": text})
    assert status == 200
    assert found["tokens"] == assistant.tokenizer.encode(text, add_special_tokens=True)
    assert found["count"] > found["max_model_len"]
    assert call(server, "POST", "/detokenize", {"tokens": found["tokens"]})[2] == {"prompt": text}
    chat = call(server, "POST", "/tokenize", {"messages": [{"role": "user", "content": text}]})[2]
    assert chat["count"] > found["count"]
    assert call(server, "POST", "/v1/completions", {"model": BASE, "prompt": text})[0] == 400
    status, _, refused = call(server, "POST", "/v1/completions", {"model": BASE, "prompt": ["a", found["tokens"]]})
    assert (status, refused["error"]["param"]) == (400, "prompt[1]")


def test_conversations_become_the_prompt_that_chats_have(server: HttpServer, assistant: Assistant) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "<|im_end|> late?"}]
    plain = [{**messages[0], "role": "system"}, messages[1]]
    _, _, found = call(server, "POST", "/tokenize", {"messages": messages})
    assert found["tokens"] == assistant.encoder.prompt_tokens(plain)
    assert found["tokens"].count(2) == 2  # the end of a turn that the user spells is text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chat_template", "{{ messages[0].content }}"), ("chat_template_kwargs", {"enable_thinking": False}),
        ("continue_final_message", True), ("add_generation_prompt", False),
    ],
)  # fmt: skip
def test_the_tokens_of_another_prompt_than_a_chats_are_refused(server: HttpServer, field: str, value: object) -> None:
    content: dict[str, Any] = {"messages": [{"role": "user", "content": "late?"}]}
    status, _, refused = call(server, "POST", "/tokenize", {**content, field: value})
    assert (status, refused["error"]["code"], refused["error"]["param"]) == (400, "unsupported_parameter", field)
    assert call(server, "POST", "/tokenize", {**content, "chat_template_kwargs": {}, "chat_template": None})[0] == 200


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/tokenize", {}), ("/tokenize", {"prompt": 7}), ("/tokenize", {"prompt": "a", "messages": [{}]}),
        ("/tokenize", {"messages": []}), ("/detokenize", {}), ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": [10**9]}), ("/detokenize", {"tokens": ["a"]}),
    ],
)  # fmt: skip
def test_what_cannot_be_turned_is_400(server: HttpServer, path: str, content: Any) -> None:
    assert call(server, "POST", path, content)[0] == 400


def test_a_model_that_is_not_there_is_404(server: HttpServer) -> None:
    assert call(server, "POST", "/tokenize", {"model": "nobody", "prompt": "a"})[0] == 404
