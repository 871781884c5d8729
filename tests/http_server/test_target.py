"""A target that is a whole address is taken as its path, and its host counts instead of the header."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.servers.served import BASE, call, raw
from veneer.http_server.server import HttpServer
from veneer.http_server.target import by_path


def scope_of(target: str, host: bytes = b"localhost") -> dict[str, Any]:
    return {"type": "http", "path": target, "raw_path": target.encode(), "headers": [(b"host", host), (b"x", b"y")]}


def test_an_address_is_its_path_and_its_host() -> None:
    found = by_path(scope_of("http://example.org:80/v1/models/a%20b", b"localhost"))
    assert (found["path"], found["raw_path"]) == ("/v1/models/a b", b"/v1/models/a%20b")
    assert found["headers"] == [(b"host", b"example.org:80"), (b"x", b"y")]
    assert by_path(scope_of("HTTPS://[::1]"))["path"] == "/"


@pytest.mark.parametrize(
    "target", ["/v1/models", "*", "localhost:443", "//localhost/v1", "http:/v1", "ftp://a/b", "http://["]
)
def test_what_is_no_address_of_a_server_stays_as_it_is(target: str) -> None:
    scope = scope_of(target)
    assert by_path(scope) is scope


def test_the_server_takes_targets_with_their_host(server: HttpServer) -> None:
    whole = f"{server.url}/v1/completions"
    status, _, answer = call(server, "POST", whole, {"model": BASE, "prompt": "late", "max_tokens": 2})
    assert status == 200
    assert answer["object"] == "text_completion"
    assert call(server, "GET", f"{server.url}/v1/models/{BASE}?x=1")[2]["id"] == BASE
    assert call(server, "GET", f"{server.url}/nothing")[0] == 404


def test_the_host_of_a_target_is_the_one_that_is_checked(server: HttpServer) -> None:
    start = b"GET http://%s/health HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n\r\n"
    assert raw(server, start % (b"attacker.example", b"localhost")).startswith(b"HTTP/1.1 403 ")
    assert raw(server, start % (b"a@localhost", b"localhost")).startswith(b"HTTP/1.1 403 ")
    assert raw(server, start % (b"localhost", b"attacker.example")).startswith(b"HTTP/1.1 200 ")
