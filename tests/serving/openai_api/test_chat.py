"""Chat completions by OpenAI's own client: the answers of the engine, whole and streamed."""

from __future__ import annotations

import json
from threading import current_thread
from typing import Any

import openai
import pytest
from openai import OpenAI

from helpers.servers.served import ADAPTER, BASE, call
from veneer.assistant.assistant import Assistant
from veneer.generation.batch import generate
from veneer.generation.sampling import Sampling
from veneer.http_server.server import HttpServer
from veneer.model.language import LanguageModel
from veneer.serving.served_adapters.catalogue import AdapterVersion
from veneer.serving.service import Service

MESSAGES: list[Any] = [{"role": "user", "content": "1: late parcel?"}]


def expected(assistant: Assistant, model: LanguageModel, most: int) -> str:
    prompt = assistant.encoder.prompt_tokens(MESSAGES)
    (tokens,) = generate(model, [prompt], sampling=Sampling(max_new_tokens=most), stop_ids=assistant.stop_ids)
    return assistant.tokenizer.decode(tokens)


def test_the_base_and_the_adapter_answer_as_they_do_alone(
    client: OpenAI, assistant: Assistant, other: LanguageModel
) -> None:
    for name, model in ((BASE, assistant.model), (ADAPTER, other)):
        answer = client.chat.completions.create(model=name, messages=MESSAGES, temperature=0, max_tokens=12)
        assert answer.choices[0].message.content == expected(assistant, model, 12)
        assert answer.choices[0].finish_reason == "length"
        assert answer.model == name
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 12
        assert answer.usage.prompt_tokens == len(assistant.encoder.prompt_tokens(MESSAGES))


def test_a_stream_is_the_whole_answer_in_pieces_and_ends_with_its_usage(client: OpenAI, assistant: Assistant) -> None:
    stream = client.chat.completions.create(
        model=BASE,
        messages=MESSAGES,
        temperature=0,
        max_completion_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == expected(assistant, assistant.model, 12)
    assert len(chunks) > 4
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_several_answers_differ_by_their_seeds_and_repeat_with_the_same_one(client: OpenAI) -> None:
    def ask(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model=BASE, messages=MESSAGES, temperature=1.5, n=3, seed=seed, max_tokens=8
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = ask(7)
    assert len(set(first)) == 3
    assert ask(7) == first
    assert ask(8)[:2] == first[1:]


def test_a_stop_string_ends_the_answer_and_is_not_in_it(client: OpenAI, assistant: Assistant) -> None:
    whole = expected(assistant, assistant.model, 20)
    stop = whole[6:9]
    answer = client.chat.completions.create(model=BASE, messages=MESSAGES, temperature=0, max_tokens=20, stop=[stop])
    assert answer.choices[0].message.content == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_log_probabilities_have_tokens_bytes_and_alternatives(client: OpenAI, assistant: Assistant) -> None:
    answer = client.chat.completions.create(
        model=BASE, messages=MESSAGES, temperature=0, max_tokens=5, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    content = logprobs.content or []
    assert len(content) == 5
    for one in content:
        assert len(one.top_logprobs) == 3
        assert one.top_logprobs[0].logprob == one.logprob  # greedy takes the likeliest
        assert one.logprob <= 0
    joined = b"".join(bytes(one.bytes or []) for one in content)
    assert joined.decode("utf-8", errors="replace") == expected(assistant, assistant.model, 5)


def test_the_log_probabilities_of_many_answers_hold_up_nobody(
    client: OpenAI, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are written beside the event loop's thread."""
    threads, found = set[str](), service.token_bytes

    def token_bytes(token: int) -> bytes:
        threads.add(current_thread().name)
        return found(token)

    monkeypatch.setattr(service, "token_bytes", token_bytes)
    client.chat.completions.create(model=BASE, messages=MESSAGES, n=4, max_tokens=4, logprobs=True, top_logprobs=20)
    assert [name.startswith("asyncio_") for name in threads] == [True]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_token_has_a_log_probability_and_no_bytes(client: OpenAI, assistant: Assistant, stream: bool) -> None:
    prompt = assistant.encoder.prompt_tokens(MESSAGES)
    drawn = Sampling(max_new_tokens=9, temperature=1.5, seed=4)
    (tokens,) = generate(assistant.model, [prompt], sampling=drawn, stop_ids=assistant.stop_ids)
    place = next(place for place in range(1, 9) if tokens[place] not in tokens[:place])
    answer: Any = client.chat.completions.create(
        model=BASE, messages=MESSAGES, temperature=1.5, seed=4, max_tokens=9, logprobs=True, stream=stream,
        extra_body={"stop_token_ids": [tokens[place]]},
    )  # fmt: skip
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    content = [one for choice in choices if choice.logprobs is not None for one in choice.logprobs.content]
    assert choices[-1].finish_reason == "stop"
    assert len(content) == place + 1
    assert content[-1].bytes is None
    assert content[-1].logprob < 0
    joined = b"".join(bytes(one.bytes or []) for one in content)
    assert joined.decode("utf-8", errors="replace") == assistant.tokenizer.decode(tokens[:place])
    if not stream:
        assert answer.usage.completion_tokens == place + 1


@pytest.mark.filterwarnings("ignore")
def test_langchains_client_gets_the_same_answers(server: HttpServer, assistant: Assistant) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    chat = langchain.ChatOpenAI(base_url=f"{server.url}/v1", api_key="-", model=BASE, temperature=0, max_tokens=8)
    want = expected(assistant, assistant.model, 8)
    assert chat.invoke(MESSAGES).content == want
    assert "".join(chunk.content for chunk in chat.stream(MESSAGES)) == want


def test_an_unknown_adapter_is_404_and_never_the_base(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean 'claims'") as caught:
        client.chat.completions.create(model="claim", messages=MESSAGES)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_an_adapter_that_is_unloaded_while_its_request_is_read_is_404(
    server: HttpServer, service: Service, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(service.models.catalogue, "version", lambda name: AdapterVersion(name, 1))
    content = {"model": "gone", "messages": MESSAGES, "stream": stream}
    status, _, answer = call(server, "POST", "/v1/chat/completions", content)
    error = json.loads(answer.removeprefix(b"data: ")) if stream else answer
    assert status == (200 if stream else 404)
    assert (error["error"]["code"], error["error"]["param"]) == ("model_not_found", "model")


def test_fields_that_nobody_knows_are_ignored_and_named(server: HttpServer) -> None:
    content = {
        "model": BASE,
        "messages": [{**MESSAGES[0], "id": "m1"}],
        "max_tokens": 8,
        "temperature": 0,
        "user": "u",
        "stream_response": 1,
    }
    status, headers, answer = call(server, "POST", "/v1/chat/completions", content)
    assert status == 200
    assert headers["x-veneer-ignored-fields"] == "user, stream_response"
    assert answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("best_of", 2),
        ("chat_template", "{{ 1 }}"),
        ("modalities", ["text", "audio"]),
        ("echo", True),
        ("guided_json", {}),
        ("functions", [{}]),
    ],
)
def test_fields_that_would_change_the_answer_are_refused(server: HttpServer, field: str, value: object) -> None:
    content = {"model": BASE, "messages": MESSAGES, "max_tokens": 1, field: value}
    status, _, answer = call(server, "POST", "/v1/chat/completions", content)
    assert status == 400
    assert answer["error"]["param"] == field
    assert answer["error"]["type"] == "invalid_request_error"


def test_fields_at_their_neutral_values_are_taken(server: HttpServer) -> None:
    neutral = {
        "frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": None, "tools": None, "n": 1, "top_p": 1,
        "best_of": 1, "add_generation_prompt": True, "response_format": {"type": "text"}, "logprobs": False,
        "parallel_tool_calls": True, "tool_choice": "none", "stream": False, "modalities": ["text"], "top_k": -1,
    }  # fmt: skip
    content = {"model": BASE, "messages": MESSAGES, "max_tokens": 1, **neutral}
    status, headers, _ = call(server, "POST", "/v1/chat/completions", content)
    assert status == 200
    assert "x-veneer-ignored-fields" not in headers


def test_a_conversation_that_is_longer_than_the_context_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "late " * 400}])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=BASE, messages=MESSAGES, max_tokens=500)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("words", [200, 20_000])
def test_frameworks_recognise_a_conversation_that_is_too_long_by_the_message(client: OpenAI, words: int) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "late " * words}])
    # LangChain looks for the code, and LiteLLM for the sentence; OpenAI's client hands on nothing but the message.
    assert "context_length_exceeded" in str(caught.value)
    assert "this model's maximum context length is 512 tokens" in str(caught.value)


def test_a_bias_forces_a_token(client: OpenAI, assistant: Assistant) -> None:
    (token,) = assistant.tokenizer.encode("z")
    answer = client.chat.completions.create(
        model=BASE, messages=MESSAGES, max_tokens=3, temperature=0, logit_bias={str(token): 100}
    )
    assert answer.choices[0].message.content == "zzz"
