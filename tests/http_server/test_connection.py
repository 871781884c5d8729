"""Connections that slow and greedy clients cannot hold: large headers, dripping headers, answers that nobody takes."""

from __future__ import annotations

import json
import socket
import statistics
import time
from contextlib import suppress

import pytest

from helpers.servers.served import BASE, call, raw, serving, until
from veneer.assistant.assistant import Assistant
from veneer.http_server.limits import ServerLimits
from veneer.http_server.server import HttpServer

START = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"


@pytest.mark.scenario(36)
@pytest.mark.parametrize("pieces", [1, 40])
def test_headers_of_64_kilobytes_are_431(server: HttpServer, pieces: int) -> None:
    data = START + b"x: " + b"y" * 65_536
    size = -(-len(data) // pieces)
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        for start in range(0, len(data), size):
            # The server may have answered and closed before the end.
            with suppress(OSError):
                connection.sendall(data[start : start + size])
            time.sleep(0.002)
        with suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_header_fields_too_large"


def test_headers_below_the_limit_are_taken(server: HttpServer) -> None:
    answer = raw(server, START + b"connection: close\r\nx: " + b"y" * 30_000 + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("data", [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"A" * 100 + b"\r\n\r\n"])
def test_what_is_no_http_is_400(server: HttpServer, data: bytes) -> None:
    assert raw(server, data).startswith(b"HTTP/1.1 400 ")


@pytest.mark.scenario(37)
def test_200_dripping_connections_neither_slow_others_down_nor_stay(assistant: Assistant) -> None:
    with serving(assistant, limits=ServerLimits(read_seconds=5.0)) as (server, _):

        def seconds() -> float:
            began = time.perf_counter()
            content = {"model": BASE, "prompt": "late", "max_tokens": 4}
            assert call(server, "POST", "/v1/completions", content)[0] == 200
            return time.perf_counter() - began

        seconds()
        alone = statistics.median(seconds() for _ in range(10))
        began = time.monotonic()
        slow = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(200)]
        try:
            for connection in slow:
                connection.sendall(START)
            beside = []
            for _ in range(10):
                beside.append(seconds())
                for connection in slow[:50]:
                    with suppress(OSError):  # it may have been cut off
                        connection.sendall(b"x: y\r\n")
            # A second more: other work of the machine must not fail this, and a server that is held takes far longer.
            assert statistics.median(beside) < 2 * alone + 1.0
            for connection in slow:
                connection.settimeout(60)
                with suppress(ConnectionResetError):
                    assert connection.recv(1) == b""
            assert time.monotonic() - began < 60
        finally:
            for connection in slow:
                connection.close()


def test_a_second_requests_headers_must_come_in_time_too(assistant: Assistant) -> None:
    with (
        serving(assistant, limits=ServerLimits(read_seconds=0.5)) as (server, _),
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection,
    ):
        connection.sendall(START + b"\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            piece = connection.recv(65536)
            assert piece, "the server has closed before the second request"
            answer += piece
        connection.sendall(START)
        with suppress(ConnectionResetError):
            assert connection.recv(65536) == b""


def test_a_client_that_does_not_read_is_cut_off(assistant: Assistant) -> None:
    """Log-probabilities of many answers are some megabytes, which no socket's buffer holds."""
    with serving(assistant, limits=ServerLimits(write_seconds=0.5)) as (server, service):
        content = {
            "model": BASE, "messages": [{"role": "user", "content": "late?"}], "max_tokens": 400, "n": 16,
            "stream": True, "logprobs": True, "top_logprobs": 20, "ignore_eos": True,
        }  # fmt: skip
        body = json.dumps(content).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(head.encode() + body)
            assert until(lambda: service.engine.stats().running > 0)
            assert until(lambda: service.engine.stats().running == 0, 60)
            connection.settimeout(60)
            got = bytearray()
            with suppress(ConnectionResetError):
                while more := connection.recv(1 << 20):
                    got += more
    assert got.startswith(b"HTTP/1.1 200 ")
    assert b"[DONE]" not in got


def test_connections_beyond_the_limit_are_closed(assistant: Assistant) -> None:
    with serving(assistant, limits=ServerLimits(connections=5)) as (server, _):
        held = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(5)]
        for connection in held:
            connection.sendall(START + b"\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        answer = b""
        with suppress(OSError):
            answer = raw(server, START + b"\r\n")
        assert answer == b""
        for connection in held:
            connection.close()
        assert until(lambda: raw(server, START + b"connection: close\r\n\r\n") != b"")
