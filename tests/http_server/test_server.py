"""The running server: vanished clients, full queues, prompts in no log, the end in good order."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from openai import InternalServerError, OpenAI

from helpers.servers.served import ADAPTER, BASE, FixedAdapters, call, serving, until
from veneer.assistant.assistant import Assistant
from veneer.errors import ConfigError, OutputError
from veneer.events import ignore
from veneer.http_server import server as server_module
from veneer.http_server.guard import Access
from veneer.http_server.keys import Keys
from veneer.http_server.limits import ServerLimits
from veneer.http_server.server import HttpServer, is_loopback
from veneer.model.language import LanguageModel
from veneer.serving.build import build_service, open_server, server_of
from veneer.serving.request import ServeRequest
from veneer.serving.service import Service

LONG = {"model": BASE, "prompt": "The", "max_tokens": 400, "ignore_eos": True, "temperature": 0}


def started(server: HttpServer, stream: bool) -> socket.socket:
    """A request on its way."""
    body = json.dumps({**LONG, "stream": stream}).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def test_what_is_written_to_a_vanished_client_is_no_warning(server: HttpServer) -> None:
    """asyncio warns from the fifth write on after which a client is gone, and names neither client nor cause."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]

    async def write() -> None:
        ours, theirs = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=ours)
        theirs.close()
        for _ in range(20):
            writer.write(b"piece")
        writer.close()

    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    try:
        asyncio.run(write())
        logger.warning("another warning")
    finally:
        logger.removeHandler(handler)
    assert said == ["another warning"]


@pytest.mark.scenario(39)
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_frees_its_place(server: HttpServer, service: Service, stream: bool) -> None:
    assert until(lambda: service.engine.stats().running == 0)
    connection = started(server, stream)
    assert until(lambda: service.engine.stats().running == 1)
    if stream:
        assert connection.recv(100)
    before = service.engine.stats().new_tokens
    connection.close()
    assert until(lambda: service.engine.stats().running == 0)
    assert service.engine.stats().new_tokens - before < 390


@pytest.mark.scenario(39)
def test_a_cancelled_answer_ends_before_the_engines_next_step(assistant: Assistant) -> None:
    """The place is freed one step after the server hears of it, at most: the engine makes no further token."""
    with serving(assistant) as (server, service):
        connection = started(server, stream=True)
        assert until(lambda: service.engine.stats().new_tokens > 5)
        counts: list[int] = []
        real = type(service.engine).stats

        def cancelled() -> bool:
            counts.append(real(service.engine).new_tokens)
            return real(service.engine).running == 0

        connection.close()
        assert until(cancelled)
        ended = real(service.engine).new_tokens
        time.sleep(0.2)
        assert real(service.engine).new_tokens == ended < 400


@pytest.mark.scenario(39)
@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_clients_that_go_leave_no_memory_behind(server: HttpServer, service: Service, count: int) -> None:
    def cycles(count: int) -> int:
        for number in range(count):
            connection = started(server, stream=number % 2 == 0)
            if number % 4 == 0:
                connection.recv(10)
            connection.close()
        assert until(lambda: service.engine.stats().running == service.engine.stats().waiting == 0)
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1])

    cycles(60)
    before = cycles(20)
    assert cycles(count) < 1.05 * before


@pytest.mark.scenario(42)
def test_a_full_queue_is_429_and_says_when_to_come_back(assistant: Assistant) -> None:
    with serving(assistant, limits=ServerLimits(sequences=2)) as (server, service):
        held = [started(server, stream=True) for _ in range(2)]
        assert until(lambda: service.engine.stats().running == 2)
        status, headers, answer = call(server, "POST", "/v1/completions", LONG)
        assert status == 429
        assert headers["retry-after"] == "1"
        assert answer["error"]["code"] == "queue_full"
        chat = {"model": BASE, "messages": [{"role": "user", "content": "The"}]}
        for path, content in (
            ("/v1/completions", LONG),
            ("/v1/chat/completions", chat),
            ("/api/chat", chat),
            ("/api/generate", {"model": BASE, "prompt": "The"}),
        ):
            status, headers, answer = call(server, "POST", path, {**content, "stream": True})
            assert (status, headers["retry-after"]) == (429, "1"), path
            assert "running" in str(answer["error"])
        for connection in held:
            connection.close()
        assert until(lambda: call(server, "POST", "/v1/completions", {**LONG, "max_tokens": 1})[0] == 200)


def test_where_the_cache_is_smaller_than_the_context_it_ends_the_answers(assistant: Assistant) -> None:
    """Clients leave `max_tokens` out; what does not fit for their own number is refused, streamed or whole."""
    service = build_service(assistant, BASE, None, cache_bytes=assistant.model.row_bytes(96))
    chat = {"model": BASE, "messages": [{"role": "user", "content": "The"}], "logit_bias": {"2": -100}}
    with server_of(service, Access()) as server:
        for stream in (False, True):
            status, _, answer = call(server, "POST", "/v1/chat/completions", {**chat, "stream": stream})
            assert status == 200
            if not stream:
                assert answer["usage"]["total_tokens"] == 96
                assert answer["choices"][0]["finish_reason"] == "length"
            content = {**chat, "stream": stream, "max_tokens": 200}
            status, _, answer = call(server, "POST", "/v1/chat/completions", content)
            assert status == 400
            assert "of cache" in answer["error"]["message"]


def test_a_request_that_takes_too_long_is_504(assistant: Assistant) -> None:
    with serving(assistant, limits=ServerLimits(request_seconds=0.05)) as (server, service):
        several = {key: value for key, value in LONG.items() if key != "prompt"} | {"n": 8}
        chat = {"messages": [{"role": "user", "content": "The"}]}
        for path, prompt in (("/v1/completions", {"prompt": "The"}), ("/v1/chat/completions", chat)):
            status, headers, answer = call(server, "POST", path, {**several, **prompt})
            assert (status, headers["x-should-retry"]) == (504, "false")
            assert "0.05 seconds" in answer["error"]["message"]
            _, _, stream = call(server, "POST", path, {**several, **prompt, "stream": True})
            last = json.loads(stream.split(b"data: ")[-1])
            assert last["error"]["type"] == "server_error"
            assert "0.05 seconds" in last["error"]["message"]
        assert until(lambda: service.engine.stats().running == 0)


def test_what_is_under_way_is_answered_at_the_end_and_nothing_new(assistant: Assistant) -> None:
    with serving(assistant) as (server, service):
        found: list[tuple[int, object]] = []

        def ask() -> None:
            status, _, answer = call(server, "POST", "/v1/completions", LONG)
            found.append((status, answer["usage"]["completion_tokens"]))

        asking = threading.Thread(target=ask)
        asking.start()
        assert until(lambda: service.engine.stats().running == 1)
        service.draining = True
        assert call(server, "GET", "/health")[0] == 503
        assert call(server, "POST", "/v1/completions", LONG)[0] == 503
        assert server.stop()
        asking.join(30)
        assert found == [(200, 400)]
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)


def test_a_client_that_reads_slowly_gets_its_whole_answer_at_the_end(assistant: Assistant) -> None:
    content = {**LONG, "max_tokens": 200, "n": 32, "logprobs": 20, "stream": True}
    body = json.dumps(content).encode()
    head = f"POST /v1/completions HTTP/1.0\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    with serving(assistant) as (server, service), socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(head.encode() + body)
        assert until(lambda: service.engine.stats().new_tokens == 200 * 32)
        assert not service.drain(0.2), "the engine has ended, and the client has not taken the answer"
        pieces = []
        while piece := connection.recv(65536):
            pieces.append(piece)
        assert service.drain(30)
    assert b"".join(pieces).endswith(b"data: [DONE]\n\n")


@contextmanager
def answered_at_length(server: HttpServer) -> Iterator[tuple[socket.socket, bytes]]:
    """A client that has taken the beginning of a whole answer, of more bytes than systems keep for a connection."""
    content = {"model": BASE, "prompt": [5] * 400, "n": 100, "max_tokens": 1, "echo": True, "logprobs": 20}
    body = json.dumps(content).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(head.encode() + body)
        yield connection, connection.recv(4096)


def test_a_client_that_takes_a_whole_answer_slowly_gets_all_of_it_at_the_end(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request has ended long before its answer has been taken."""
    monkeypatch.setattr(server_module, "CLOSE_SECONDS", 0)
    with serving(assistant) as (server, _), answered_at_length(server) as (connection, found):
        ended: list[bool] = []
        stopping = threading.Thread(target=lambda: ended.append(server.stop(30)))
        stopping.start()
        stopping.join(1)
        assert stopping.is_alive(), "the client has not taken the answer"
        pieces = [found]
        while piece := connection.recv(65536):
            pieces.append(piece)
        stopping.join(30)
    whole = b"".join(pieces)
    answer = whole.partition(b"\r\n\r\n")[2]
    assert len(json.loads(answer)["choices"]) == 100
    assert ended == [True]


def test_an_answer_that_is_not_taken_in_time_at_the_end_is_said_to_be_cut_off(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "CLOSE_SECONDS", 0)
    with serving(assistant) as (server, _), answered_at_length(server):
        assert not server.stop(0.2)
    del server
    gc.collect()  # a connection that was left open would warn of itself, which fails a test


def test_what_takes_too_long_at_the_end_is_cancelled(assistant: Assistant) -> None:
    with serving(assistant) as (server, service):
        found: list[int] = []
        asking = threading.Thread(target=lambda: found.append(call(server, "POST", "/v1/completions", LONG)[0]))
        asking.start()
        assert until(lambda: service.engine.stats().running == 1)
        assert not server.stop(0.0)
        asking.join(30)
        assert found == [503]


@pytest.mark.scenario(42)
def test_prompts_and_answers_are_in_no_log(tiny_model: Path) -> None:
    """A server in a process of its own; everything that it prints is read."""
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "ignore", "-m", "veneer", "serve", "--model", str(tiny_model),
         "--port", "0", "--json", "--device", "cpu", "--dtype", "float32"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        url = next(json.loads(line)["url"] for line in process.stdout if line.startswith("{"))
        with httpx.Client(base_url=url, timeout=60) as client:
            for number in range(40):
                canary = f"canary{number:03}bird"
                content: dict[str, object] = {"model": "model", "max_tokens": 2, "stream": number % 3 == 0}
                content["prompt" if number % 2 else "messages"] = (
                    canary if number % 2 else [{"role": "user", "content": canary}]
                )
                path = "/v1/completions" if number % 2 else "/v1/chat/completions"
                answer = client.post(path, json=content)
                assert answer.status_code == 200, answer.text
                bad = client.post(f"{path}?{canary}", json={**content, "stop": [canary * 500], canary: 1})
                assert bad.status_code == 400
        process.terminate()
        printed = process.stdout.read()
    assert "canary" not in printed


class Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record)


@contextmanager
def logged(level: int) -> Iterator[list[logging.LogRecord]]:
    """What is logged by anybody from `level` on. (pytest's own plugin of logging is off: it takes too long.)"""
    root, records = logging.getLogger(), Records()
    before = root.level
    root.addHandler(records)
    root.setLevel(level)
    try:
        yield records.kept
    finally:
        root.removeHandler(records)
        root.setLevel(before)


@pytest.mark.scenario(42)
def test_an_error_of_the_servers_own_says_where_and_not_what(
    server: HttpServer, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Service, requests: object) -> None:
        raise RuntimeError("the prompt was: canary")

    monkeypatch.setattr(Service, "answers", broken)
    with logged(logging.DEBUG) as everything:
        status, _, answer = call(server, "POST", "/v1/completions", {**LONG, "prompt": "canary"})
    assert status == 500
    assert answer["error"]["type"] == "server_error"
    records = [record for record in everything if not record.name.startswith(("asyncio", "httpx", "httpcore"))]
    assert any("RuntimeError" in record.getMessage() for record in records)
    shown = [record.getMessage() + str(record.exc_info) for record in records]
    assert not [text for text in shown if "canary" in text]


def test_an_adapter_that_cannot_be_used_is_asked_for_once(assistant: Assistant, other: LanguageModel) -> None:
    with serving(assistant, adapters={ADAPTER: other}) as (server, service):
        catalogue = service.models.catalogue
        assert isinstance(catalogue, FixedAdapters)
        catalogue.broken.add(ADAPTER)
        with (
            OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=2) as client,
            pytest.raises(InternalServerError, match="damaged"),
        ):
            client.completions.create(model=ADAPTER, prompt=[5, 6], max_tokens=2)
        assert b'veneer:http_errors_total{status="500"} 1.0' in call(server, "GET", "/metrics")[2]


def test_other_machines_get_in_with_a_key_alone(running: tuple[HttpServer, Service]) -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("localhost")
    assert is_loopback("::1")
    for host in ("0.0.0.0", "::", "", "192.0.2.1"):
        assert not is_loopback(host)
        with pytest.raises(ConfigError, match="--key-file"):
            server_of(running[1], Access(), host=host)


@pytest.mark.parametrize("host", ["a..b", "x" * 80, "[::1]", "127.0.0.1:80", "no such host"])
def test_what_is_no_host_is_an_error(running: tuple[HttpServer, Service], host: str) -> None:
    with pytest.raises(ConfigError, match="is neither an address nor a name"):
        server_of(running[1], Access(), host=host)
    with pytest.raises(OutputError, match="cannot be listened on"):
        server_of(running[1], Access(keys=Keys(["0123456789abcdef"])), host=host)


def test_a_taken_port_is_an_error(running: tuple[HttpServer, Service]) -> None:
    with pytest.raises(OutputError, match="another --host or --port"):
        server_of(running[1], Access(), port=running[0].port)
    # It is told before the base is looked for, let alone loaded.
    with pytest.raises(OutputError, match="another --host or --port"):
        open_server(ServeRequest(model="a model that is not looked for", port=running[0].port), ignore)
