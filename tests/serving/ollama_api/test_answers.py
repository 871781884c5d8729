"""Ollama's own client gets the answers that the engine gives: whole, streamed, of a schema, and as errors."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import ollama
import pytest

from helpers.servers.served import ADAPTER, BASE, call
from veneer.assistant.assistant import Assistant
from veneer.generation.batch import generate
from veneer.generation.sampling import Sampling
from veneer.http_server.server import HttpServer
from veneer.model.language import LanguageModel

GREEDY = {"temperature": 0, "num_predict": 12}
MESSAGES = [{"role": "user", "content": "1: late parcel?"}]


@pytest.fixture(scope="module")
def theirs(server: HttpServer) -> Iterator[ollama.Client]:
    found = ollama.Client(host=server.url)
    yield found
    found._client.close()


def expected(assistant: Assistant, model: LanguageModel, prompt: list[int]) -> str:
    (tokens,) = generate(model, [prompt], sampling=Sampling(max_new_tokens=12), stop_ids=assistant.stop_ids)
    return assistant.tokenizer.decode(tokens)


def test_chats_are_answered_by_the_base_and_by_the_adapter(
    theirs: ollama.Client, assistant: Assistant, other: LanguageModel
) -> None:
    prompt = assistant.encoder.prompt_tokens(MESSAGES)
    for name, model in ((BASE, assistant.model), (ADAPTER, other), (f"{ADAPTER}:latest", other)):
        want = expected(assistant, model, prompt)
        answer = theirs.chat(model=name, messages=MESSAGES, options=GREEDY)
        assert answer.message.content == want
        assert answer.done_reason == "length"
        assert answer.prompt_eval_count == len(prompt)
        assert answer.eval_count == 12
        pieces = list(theirs.chat(model=name, messages=MESSAGES, options=GREEDY, stream=True))
        assert "".join(piece.message.content or "" for piece in pieces) == want
        assert len(pieces) > 1
        assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_questions_are_answered_by_the_template_or_as_they_are(theirs: ollama.Client, assistant: Assistant) -> None:
    tokens = assistant.tokenizer.encode("late?", add_special_tokens=True)
    raw = theirs.generate(model=BASE, prompt="late?", raw=True, options=GREEDY)
    assert raw.response == expected(assistant, assistant.model, tokens)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "late?"}]
    answer = theirs.generate(model=BASE, prompt="late?", system="Be brief.", options=GREEDY)
    assert answer.response == expected(assistant, assistant.model, assistant.encoder.prompt_tokens(turns))


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_log_probabilities_are_given_where_they_are_asked_for(
    server: HttpServer, theirs: ollama.Client, path: str
) -> None:
    options = {**GREEDY, "num_predict": 5}
    content = {"model": BASE, "messages": MESSAGES, "prompt": "late?", "options": options, "logprobs": True}
    whole = call(server, "POST", path, {**content, "stream": False, "top_logprobs": 2})[2]
    assert len(whole["logprobs"]) == whole["eval_count"] == 5
    for one in whole["logprobs"]:
        assert len(one["top_logprobs"]) == 2
        assert one["logprob"] == one["top_logprobs"][0]["logprob"] <= 0  # greedy takes the likeliest
    asked = {"model": BASE, "options": options, "stream": True, "logprobs": True, "top_logprobs": 2}
    stream: Any = (
        theirs.chat(messages=MESSAGES, **asked) if path == "/api/chat" else theirs.generate(prompt="late?", **asked)
    )
    told = [one.logprob for piece in stream for one in piece.logprobs or ()]
    assert told == [one["logprob"] for one in whole["logprobs"]]
    assert "logprobs" not in call(server, "POST", path, {**content, "stream": False, "logprobs": False})[2]
    status, _, refused = call(server, "POST", path, {**content, "logprobs": False, "top_logprobs": 2})
    assert (status, refused["error"]) == (400, "top_logprobs: needs logprobs: true")


def test_an_answer_may_have_to_be_of_a_schema(theirs: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"late": {"type": "boolean"}}, "required": ["late"],
              "additionalProperties": False}  # fmt: skip
    answer = theirs.chat(model=BASE, messages=MESSAGES, format=schema, options={"temperature": 1.0, "seed": 3})
    assert isinstance(json.loads(answer.message.content or "")["late"], bool)
    begun = theirs.generate(model=BASE, prompt="late?", format="json", options={"num_predict": 20})
    assert begun.response.lstrip().startswith("{")


def test_an_empty_schema_holds_an_answer_to_json_and_an_empty_text_to_nothing(server: HttpServer) -> None:
    said = {}
    for form in (None, "", {}):
        content = {"model": BASE, "messages": MESSAGES, "stream": False, "options": GREEDY, "format": form}
        status, _, answer = call(server, "POST", "/api/chat", content)
        assert status == 200
        said[str(form)] = answer["message"]["content"].lstrip()
    assert said["None"] == said[""]
    assert said["{}"] != said[""]
    assert said["{}"][0] in '{["-0123456789tfn'


def test_a_model_that_is_not_there_is_an_error_of_their_form(theirs: ollama.Client, server: HttpServer) -> None:
    with pytest.raises(ollama.ResponseError, match="there is no model '") as caught:
        theirs.chat(model="nobody", messages=MESSAGES)
    assert caught.value.status_code == 404
    status, _, answer = call(server, "POST", "/api/chat", {"model": BASE, "messages": MESSAGES, "format": 7})
    assert status == 400
    assert isinstance(answer["error"], str)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"num_predict": 10**9},
        {"mirostat": 1},
        {"mirostat": 2},
        {"typical_p": 0},
        {"tfs_z": 0.5},
        {"seed": "a"},
        {"stop": [""]},
        {"repeat_penalty": 0},
    ],
)
def test_options_out_of_range_are_refused(server: HttpServer, options: dict[str, object]) -> None:
    status, _, answer = call(server, "POST", "/api/generate", {"model": BASE, "prompt": "a", "options": options})
    assert status == 400
    assert answer["error"].startswith(f"options.{next(iter(options))}")


def test_the_seed_that_ollama_sends_for_none_is_none(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def randbelow(below: int) -> int:
        drawn.append(below)
        return 3

    monkeypatch.setattr(secrets, "randbelow", randbelow)

    def asked(seed: int) -> str:
        content = {"model": BASE, "prompt": "a", "stream": False, "options": {"num_predict": 8, "seed": seed}}
        return str(call(server, "POST", "/api/generate", content)[2]["response"])

    assert asked(-1) == asked(3) != asked(-2)
    assert len(drawn) == 1


@pytest.mark.parametrize("options", [{"mirostat": 0}, {"typical_p": 1.0}, {"typical_p": 1}, {"tfs_z": 1}])
def test_options_that_are_not_honoured_are_taken_where_they_are_off(
    server: HttpServer, options: dict[str, object]
) -> None:
    content = {"model": BASE, "prompt": "a", "stream": False, "options": {"num_predict": 1, **options}}
    status, headers, _ = call(server, "POST", "/api/generate", content)
    assert status == 200
    assert "x-veneer-ignored-fields" not in headers


def test_a_request_without_a_question_finds_the_model_loaded(theirs: ollama.Client) -> None:
    assert theirs.generate(model=BASE).done_reason == "load"
    assert theirs.chat(model=BASE, messages=[]).done_reason == "load"


@pytest.mark.parametrize(
    ("path", "content", "field"),
    [
        ("/api/chat", {"messages": [{**MESSAGES[0], "images": ["aGVsbG8="]}]}, "images"),
        ("/api/generate", {"prompt": "a", "images": ["aGVsbG8="]}, "images"),
        ("/api/generate", {"prompt": "a", "raw": True, "system": "Be brief."}, "system"),
    ],
)
def test_what_would_change_the_answer_is_refused(
    server: HttpServer, path: str, content: dict[str, object], field: str
) -> None:
    status, _, answer = call(server, "POST", path, {"model": BASE, **content})
    assert status == 400
    assert field in answer["error"]


def test_what_is_not_honoured_is_named(server: HttpServer) -> None:
    content = {
        "model": BASE,
        "prompt": "a",
        "keep_alive": "5m",
        "stream": False,
        "options": {"num_predict": 1, "num_ctx": 9},
    }
    assert call(server, "POST", "/api/generate", content)[1]["x-veneer-ignored-fields"] == "keep_alive, options.num_ctx"
    loading = {"model": BASE, "options": {"num_ctx": 9}}
    for path in ("/api/generate", "/api/chat"):
        assert call(server, "POST", path, loading)[1]["x-veneer-ignored-fields"] == "options"
    assert (
        call(server, "POST", "/api/show", {"model": BASE, "verbose": True})[1]["x-veneer-ignored-fields"] == "verbose"
    )
