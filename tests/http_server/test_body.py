"""Bodies: too large, nested too deeply, no JSON, too slow; and fields far out of range, before any prompt is read."""

from __future__ import annotations

import gzip
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.servers.served import BASE, call, raw, serving
from veneer.assistant.assistant import Assistant
from veneer.http_server.body import MOST_JSON_VALUES, too_many_values
from veneer.http_server.limits import ServerLimits
from veneer.http_server.server import HttpServer
from veneer.serving.prompts import PromptEncoder

LIMIT = ServerLimits().body_bytes


def resident() -> int:
    """Bytes of this process in memory."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


@pytest.mark.scenario(36)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_the_limit_is_413_and_takes_no_memory(server: HttpServer, chunked: bool) -> None:
    before, highest = resident(), 0
    start = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    piece = b" " * 100_000
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        head = b"transfer-encoding: chunked" if chunked else f"content-length: {LIMIT + 1}".encode()
        connection.sendall(start + head + b"\r\n\r\n")
        left = LIMIT + 1
        while left > 0:
            part = piece[: min(left, len(piece))]
            left -= len(part)
            connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n" if chunked else part)
            highest = max(highest, resident())
        if chunked:
            connection.sendall(b"0\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
    assert highest - before < 50_000_000


@pytest.mark.scenario(36)
@pytest.mark.parametrize("opening", ['{"a":', "["])
def test_nesting_without_end_is_400(server: HttpServer, opening: str) -> None:
    for depth in (200, 10_000, 1_000_000):
        body = (opening * depth).encode()
        status, _, answer = call(server, "POST", "/v1/chat/completions", body)
        assert status == 400
        assert answer["error"]["code"] == "invalid_json"
    deep: Any = "x"
    for _ in range(200):
        deep = [deep]
    status, _, answer = call(server, "POST", "/v1/chat/completions", {"model": BASE, "messages": deep})
    assert status == 400


def test_a_body_that_is_announced_as_too_large_is_not_asked_for(server: HttpServer) -> None:
    head = f"host: localhost\r\nexpect: 100-continue\r\ncontent-length: {LIMIT + 1}\r\n\r\n".encode()
    answer = raw(server, b"POST /v1/completions HTTP/1.1\r\n" + head)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_byte_order_mark_before_the_body_is_passed_over(server: HttpServer) -> None:
    body = b"\xef\xbb\xbf" + json.dumps({"prompt": "late"}).encode()
    assert call(server, "POST", "/tokenize", body)[0] == 200


def test_a_compressed_body_is_415_and_told_so(server: HttpServer) -> None:
    body = gzip.compress(json.dumps({"model": BASE, "prompt": "a", "max_tokens": 1}).encode())
    status, headers, answer = call(server, "POST", "/v1/completions", body, content_encoding="gzip")
    assert status == 415
    assert headers["accept-encoding"] == "identity"
    assert "without compression" in answer["error"]["message"]
    content = {"model": BASE, "prompt": "a", "max_tokens": 1}
    assert call(server, "POST", "/v1/completions", content, content_encoding="identity")[0] == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff{}", b'{"model": "\\ud800"}', b'{"model": "\\u0000"}', b"{}" * 2,
             b'{"model": "tiny", "prompt": "a", "prompt": "b"}']
)  # fmt: skip
def test_what_is_no_json_object_is_400(server: HttpServer, body: bytes) -> None:
    status, _, answer = call(server, "POST", "/v1/completions", body)
    assert status == 400
    assert answer["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("item", ["[]", "{}", '""', '{"a":1}'])
def test_more_values_than_anybody_needs_are_400_and_not_parsed(server: HttpServer, item: str) -> None:
    body = ('{"prompt": [' + ",".join([item] * (MOST_JSON_VALUES + 1)) + "]}").encode()
    status, _, answer = call(server, "POST", "/v1/completions", body)
    assert status == 400
    assert "texts, lists and objects" in answer["error"]["message"]


def test_numbers_and_what_stands_in_texts_are_not_counted_as_values() -> None:
    inside = '[{"' * MOST_JSON_VALUES
    assert not too_many_values(json.dumps({"prompt": inside}))
    assert not too_many_values(json.dumps({"prompt": inside + "\\"}))
    assert not too_many_values(json.dumps({"prompt": [1] * (2 * MOST_JSON_VALUES)}))
    assert not too_many_values(json.dumps([""] * (MOST_JSON_VALUES - 1)))
    assert too_many_values(json.dumps([""] * MOST_JSON_VALUES))
    assert too_many_values(json.dumps([inside, *[[]] * MOST_JSON_VALUES]))


BAD: list[tuple[str, Any]] = [
    ("n", 10**6), ("n", 0), ("n", -1), ("n", True), ("max_tokens", -1), ("max_tokens", 10**9), ("max_tokens", 1.5),
    ("max_completion_tokens", 0), ("temperature", float("nan")), ("temperature", float("inf")), ("temperature", -0.1),
    ("temperature", 2.1), ("top_p", -1), ("top_p", 1.1), ("top_k", -2), ("min_p", -0.1),
    ("seed", 2**80), ("stop", ["a"] * 10_000), ("stop", ["a" * 10**6]), ("stop", [""]), ("stop", 7), ("stop", [7]),
    ("presence_penalty", -3), ("frequency_penalty", 3), ("repetition_penalty", -1), ("logit_bias", {"-1": 1}),
    ("logit_bias", {"5": 1e9}), ("logit_bias", {"5": float("nan")}), ("logit_bias", {"99999999": 1}),
    ("logit_bias", {"²": 1}), ("logit_bias", [1]), ("top_logprobs", -1), ("top_logprobs", 21), ("top_logprobs", 2),
    ("min_tokens", -1), ("stop_token_ids", [-1]), ("stop_token_ids", [True]), ("stream", "yes"), ("logprobs", 1),
    ("stream_options", {"include_usage": True}), ("tool_choice", "required"), ("response_format", {"type": "xml"}),
    ("n", int("9" * 4000)),
]  # fmt: skip


@pytest.mark.scenario(38)
@pytest.mark.parametrize(("field", "value"), BAD)
def test_values_out_of_range_are_400_before_anything_is_tokenised(
    server: HttpServer, field: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def untouched(self: PromptEncoder, *args: object, **settings: object) -> tuple[int, ...]:
        pytest.fail("a prompt was made")

    monkeypatch.setattr(PromptEncoder, "tokens_of", untouched)
    content = {"model": BASE, "messages": [{"role": "user", "content": "late?"}], field: value}
    status, _, answer = call(server, "POST", "/v1/chat/completions", content)
    assert status == 400, answer
    assert answer["error"]["param"].startswith(field)
    assert len(answer["error"]["message"]) < 500


@pytest.mark.parametrize(
    "messages",
    [
        None, [], "late?", [1], [{}], [{"role": "user"}], [{"role": "king", "content": "a"}],
        [{"role": "user", "content": 1}], [{"role": 7, "content": "a"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}],
        [{"role": "user", "content": "a"}] * 10_001,
    ],
)  # fmt: skip
def test_messages_that_are_none_are_400(server: HttpServer, messages: object) -> None:
    status, _, answer = call(server, "POST", "/v1/chat/completions", {"model": BASE, "messages": messages})
    assert status == 400
    assert answer["error"]["param"].startswith("messages")


def test_a_body_that_does_not_come_is_408(assistant: Assistant) -> None:
    with serving(assistant, limits=ServerLimits(read_seconds=0.3)) as (server, _):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
            began = time.monotonic()
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 408 ")
            while connection.recv(65536):
                pass
        assert time.monotonic() - began < 15
