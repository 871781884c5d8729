"""Answers that must be JSON are JSON of their schema, whatever the model would have said."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import tokenizers
import torch
from openai import OpenAI
from tokenizers import models

from helpers.servers.served import BASE, call, serving, until
from veneer.assistant.assistant import Assistant
from veneer.errors import ConfigError
from veneer.http_server.errors import ApiError
from veneer.http_server.limits import ServerLimits
from veneer.http_server.server import HttpServer
from veneer.io.token_bytes import token_bytes
from veneer.io.tokenizer import Tokenizer
from veneer.serving.grammar import Grammar, Grammars

MESSAGES: list[Any] = [{"role": "user", "content": "late?"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "word": {"enum": ["late", "blue"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
    },
    "required": ["count", "word", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(6))
def test_every_answer_is_of_the_schema(client: OpenAI, seed: int) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "claim", "schema": SCHEMA, "strict": True}}
    answer = client.chat.completions.create(
        model=BASE, messages=MESSAGES, temperature=1.5, seed=seed, n=2, max_tokens=200, response_format=form
    )
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        value = json.loads(choice.message.content or "")
        assert set(value) == {"count", "word", "tags"}
        assert 0 <= value["count"] <= 99
        assert value["word"] in ("late", "blue")
        assert 1 <= len(value["tags"]) <= 2
        assert all(isinstance(tag, bool) for tag in value["tags"])


def test_an_answer_that_must_be_an_object_begins_as_one(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=BASE, messages=MESSAGES, max_tokens=40, response_format={"type": "json_object"}, seed=1
    )
    assert (answer.choices[0].message.content or "").lstrip().startswith("{")


def test_a_mask_forbids_exactly_what_the_grammar_does_not_allow(assistant: Assistant) -> None:
    """By brute force: a token is allowed if and only if some string of the schema begins with the text so far."""
    spec, tokenizer = assistant.model.spec, assistant.tokenizer
    grammars, bytes_of = Grammars(tokenizer, spec.vocab_size, assistant.stop_ids, 10_000), token_bytes(tokenizer)
    words = ["late", "blue", "below"]
    grammar = grammars.of_schema({"enum": words}, "response_format")
    texts = [json.dumps(word).encode() for word in words]
    text = b""
    for token in tokenizer.encode('"blue"'):
        scores = torch.zeros(spec.vocab_size)
        grammar.restrict(scores)
        allowed = {number for number in range(spec.vocab_size) if scores[number] == 0}
        expected = {
            number
            for number in range(spec.vocab_size)
            if number not in range(len(tokenizer.special_tokens))
            and bytes_of(number)
            and any(one.startswith(text + bytes_of(number)) for one in texts)
        }
        assert allowed == expected
        grammar.accept(token)
        text += bytes_of(token)
    scores = torch.zeros(spec.vocab_size)
    grammar.restrict(scores)
    assert {number for number in range(spec.vocab_size) if scores[number] == 0} == set(assistant.stop_ids)


def test_a_tokenizer_that_llguidance_cannot_read_is_named_and_not_the_schema() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))  # it has no decoder
    with pytest.raises(ApiError, match="llguidance cannot read the model's tokenizer") as refused:
        Grammars(Tokenizer(backend), 2, [1], 10_000).of_schema({"type": "object"}, "response_format")
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "http://elsewhere.example/schema"},
        {"enum": ["a" * 70_000]},
        False,
        {"$ref": "#"},
        {"$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}, "$ref": "#/$defs/A"},
    ],
)
def test_schemas_that_cannot_be_used_are_refused(client: OpenAI, schema: Any) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=BASE, messages=MESSAGES, response_format=form, max_tokens=4)
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    ("pattern", "cause"),
    [
        ("(secret", "regex parse error: unclosed group"),
        ("secret{3,1}", "regex parse error: invalid repetition count range, the start must be <= the end"),
    ],
)
def test_what_is_wrong_with_a_pattern_is_said_without_it(assistant: Assistant, pattern: str, cause: str) -> None:
    grammars = Grammars(assistant.tokenizer, assistant.model.spec.vocab_size, assistant.stop_ids, 10_000)
    with pytest.raises(ApiError) as caught:
        grammars.of_schema({"type": "string", "pattern": pattern}, "response_format")
    assert caught.value.message == f"response_format: the schema cannot be used: {cause}"


def test_true_is_the_schema_of_every_value(client: OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": True}}
    bias = {str(token): 20 for token in range(48, 58)}
    answer = client.chat.completions.create(
        model=BASE, messages=MESSAGES, response_format=form, max_tokens=1, logit_bias=bias
    )
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_a_grammar_that_can_go_no_further_says_so(assistant: Assistant) -> None:
    """The parser has a limit of what it keeps; the mask that it gives then lets the answer end as if it were whole."""
    spec, tokenizer = assistant.model.spec, assistant.tokenizer
    grammars = Grammars(tokenizer, spec.vocab_size, assistant.stop_ids, 64_000)
    ambiguous = [{"type": "array", "minItems": least, "items": {"type": "integer"}} for least in range(800)]
    grammar = grammars.of_schema({"anyOf": ambiguous}, "response_format")

    def follow() -> None:
        for token in tokenizer.encode("[" + "1," * 50):
            grammar.restrict(torch.zeros(spec.vocab_size))
            grammar.accept(token)

    with pytest.raises(ConfigError, match="cannot follow the schema: ") as caught:
        follow()
    assert "\n" not in str(caught.value)


class Broken:
    """A grammar that can go no further after three tokens."""

    def __init__(self) -> None:
        self._left = 3

    def restrict(self, scores: torch.Tensor) -> None:
        if self._left == 0:
            raise ConfigError("the answer cannot follow the schema: too large")

    def accept(self, token: int) -> None:
        self._left -= 1


def test_a_schema_that_cannot_be_held_to_ends_its_answer_with_an_error_and_nobody_elses(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Grammars, "of_schema", lambda *_: Broken())
    content = {"model": BASE, "messages": MESSAGES, "max_tokens": 40, "ignore_eos": True}
    # With a seed, since another answer might end before its grammar does.
    asked = {**content, "ignore_eos": False, "response_format": {"type": "json_object"}, "seed": 0}
    with serving(assistant) as (server, service), ThreadPoolExecutor(1) as pool:
        beside = pool.submit(call, server, "POST", "/v1/chat/completions", content)
        status, _, answer = call(server, "POST", "/v1/chat/completions", asked)
        assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
        assert answer["error"]["message"] == "the answer cannot follow the schema: too large"
        _, _, answer = call(server, "POST", "/v1/chat/completions", {**asked, "stream": True})
        assert json.loads(answer.split(b"data: ")[-1])["error"]["type"] == "invalid_request_error"
        status, _, answer = beside.result()
        assert (status, answer["usage"]["completion_tokens"]) == (200, 40)
        assert service.engine.stats().running == 0


def test_a_schema_where_other_servers_take_it_is_refused_and_what_is_beside_it_named(server: HttpServer) -> None:
    content = {"model": BASE, "messages": MESSAGES, "max_tokens": 2}
    form: dict[str, Any] = {"type": "json_object", "schema": SCHEMA}
    status, _, answer = call(server, "POST", "/v1/chat/completions", {**content, "response_format": form})
    assert (status, answer["error"]["param"]) == (400, "response_format.schema")
    schema = {"name": "x", "strict": True, "description": "a claim", "schema": SCHEMA}
    form = {"type": "json_schema", "json_schema": schema}
    status, headers, _ = call(server, "POST", "/v1/chat/completions", {**content, "response_format": form})
    assert (status, headers["x-veneer-ignored-fields"]) == (200, "response_format.json_schema.description")


def test_what_a_grammar_cannot_be_combined_with_is_refused(server: HttpServer) -> None:
    for field, value in (("min_tokens", 2), ("ignore_eos", True), ("stop_token_ids", [5])):
        content = {"model": BASE, "messages": MESSAGES, "response_format": {"type": "json_object"}, field: value}
        status, _, answer = call(server, "POST", "/v1/chat/completions", {**content, "max_tokens": 4})
        assert status == 400
        assert field in answer["error"]["message"]


def test_a_model_without_an_end_has_no_grammars(assistant: Assistant) -> None:
    for none in ((), (-1, 99_999)):
        with pytest.raises(ApiError, match="no token that ends"):
            Grammars(assistant.tokenizer, assistant.model.spec.vocab_size, none, 100).of_schema(True, "response_format")


def test_ends_that_the_model_has_no_token_for_are_passed_over(assistant: Assistant) -> None:
    strange = {*assistant.stop_ids, -1, 99_999}
    vocab_size = assistant.model.spec.vocab_size
    masks = []
    for ends in (assistant.stop_ids, strange):
        scores = torch.zeros(vocab_size)
        Grammars(assistant.tokenizer, vocab_size, ends, 100).of_schema(True, "x").restrict(scores)
        masks.append(scores)
    assert torch.equal(*masks)


def test_tokens_that_the_model_has_no_row_for_are_passed_over(assistant: Assistant) -> None:
    vocab_size, stop_ids = assistant.model.spec.vocab_size, assistant.stop_ids
    backend = tokenizers.Tokenizer.from_str(assistant.tokenizer.backend.to_str())
    backend.add_special_tokens([f"<|image {number}|>" for number in range(vocab_size - backend.get_vocab_size() + 1)])
    masks = []
    for tokenizer in (assistant.tokenizer, Tokenizer(backend)):
        scores = torch.zeros(vocab_size)
        Grammars(tokenizer, vocab_size, stop_ids, 100).of_schema(True, "x").restrict(scores)
        masks.append(scores)
    assert torch.equal(*masks)


def test_a_schema_that_takes_long_to_prepare_is_given_up(assistant: Assistant) -> None:
    """Patterns that must hold at once take twice as long with each more of them."""
    patterns = [{"type": "string", "pattern": f"[abc].{{{length}}}[abc]"} for length in range(10, 29)]

    def ask(server: HttpServer, schema: object) -> tuple[int, dict[str, str], Any]:
        form = {"type": "json_schema", "json_schema": {"name": "one", "schema": schema}}
        content = {"model": BASE, "messages": MESSAGES, "max_tokens": 4, "response_format": form}
        return call(server, "POST", "/v1/chat/completions", content)

    with serving(assistant, limits=ServerLimits(schema_seconds=0.2, schemas=1)) as (server, _):
        status, _, body = ask(server, {"allOf": patterns})
        assert (status, body["error"]["param"]) == (400, "response_format")
        assert "preparing the schema takes more than 0.2 s" in body["error"]["message"]
        assert call(server, "GET", "/v1/models")[0] == 200
        assert until(lambda: ask(server, SCHEMA)[0] == 200, 300), "the thread is free again when its work has ended"


def test_a_good_schema_is_not_blamed_for_others_that_keep_the_server_busy(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    made = Grammars.of_schema

    def slow(self: Grammars, schema: Any, param: str, around: str | None) -> Grammar:
        if schema == {"enum": ["slow"]}:
            go.wait(60)
        return made(self, schema, param, around)

    monkeypatch.setattr(Grammars, "of_schema", slow)

    def ask(server: HttpServer, form: object) -> tuple[int, dict[str, str], Any]:
        content = {"model": BASE, "messages": MESSAGES, "max_tokens": 4, "response_format": form}
        return call(server, "POST", "/v1/chat/completions", content)

    with serving(assistant, limits=ServerLimits(schema_seconds=0.2, schemas=1)) as (server, _):
        status, _, _ = ask(server, {"type": "json_schema", "json_schema": {"schema": {"enum": ["slow"]}}})
        assert status == 400
        status, headers, body = ask(server, {"type": "json_object"})
        assert (status, headers["retry-after"]) == (503, "1")
        assert "preparing 1 other schemas" in body["error"]["message"]
        go.set()
        assert until(lambda: ask(server, {"type": "json_object"})[0] == 200)


def test_several_answers_share_what_their_schema_took_and_nothing_else(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = []
    made = Grammars.of_schema

    def counted(self: Grammars, schema: Any, param: str, around: str | None) -> Grammar:
        prepared.append(param)
        return made(self, schema, param, around)

    monkeypatch.setattr(Grammars, "of_schema", counted)
    schema = {"enum": ["late", "blue", "below", "lost"]}
    form = {"type": "json_schema", "json_schema": {"name": "one", "schema": schema}}
    content = {"model": BASE, "messages": MESSAGES, "max_tokens": 40, "n": 6, "response_format": form, "seed": 1}
    with serving(assistant) as (server, _):
        status, _, body = call(server, "POST", "/v1/chat/completions", content)
    assert (status, prepared) == (200, ["response_format"])
    answers = {json.loads(choice["message"]["content"]) for choice in body["choices"]}
    assert answers <= set(schema["enum"])
    assert len(answers) > 1, "each goes its own way"
