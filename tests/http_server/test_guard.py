"""Who gets in: the key on every route, names that a page cannot forge, and no page of another site by any method."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from helpers.servers.served import BASE, call, raw, serving
from veneer.assistant.assistant import Assistant
from veneer.errors import ConfigError
from veneer.http_server.errors import ApiError
from veneer.http_server.guard import Access
from veneer.http_server.keys import Keys
from veneer.http_server.server import HttpServer
from veneer.serving.app import ADMIN_ROUTES, GET_ROUTES, POST_ROUTES
from veneer.serving.build import access_of
from veneer.serving.request import ServeRequest

KEY, ADMIN_KEY = "a-key-of-the-server", "a-key-of-the-admin"
ASKED = {"type": "http", "method": "GET", "path": "/"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@pytest.fixture(scope="module")
def guarded(assistant: Assistant) -> Iterator[HttpServer]:
    access = Access(keys=Keys([KEY, "another-key-of-it"]), admin_keys=Keys([ADMIN_KEY]))
    with serving(assistant, access=access) as (server, _):
        yield server


@pytest.mark.scenario(35)
def test_every_route_asks_for_the_key_by_every_method(guarded: HttpServer) -> None:
    paths = [
        *GET_ROUTES,
        *POST_ROUTES,
        *ADMIN_ROUTES,
        "/",
        "/no-such-route",
        "/health/",
        "//health",
        "/v1",
        "/v1/models/../../health",
    ]
    for path in paths:
        if path == "/health":
            continue
        for method, ending in itertools.product(METHODS, ("", "%0A")):
            for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Bearer {KEY}x"}):
                status, found, _ = call(guarded, method, path + ending, **header)
                assert status == 401, (method, path, ending, header)
                assert "www-authenticate" in found
    assert call(guarded, "GET", "/health")[0] == 200


@pytest.mark.scenario(35)
@pytest.mark.parametrize("path", ["/health/..", "/v1/models", "/v1/load_lora_adapter", "//health", ""])
def test_a_target_with_its_host_is_no_way_around_the_key(guarded: HttpServer, path: str) -> None:
    for start in ("http://localhost", "https://127.0.0.1:8000", "HTTP://localhost/"):
        assert call(guarded, "GET", start + path)[0] == 401
    assert call(guarded, "GET", "http://localhost/health")[0] == 200


@pytest.mark.scenario(35)
def test_each_key_opens_as_a_bearer_token_and_as_a_password(guarded: HttpServer) -> None:
    for key in (KEY, "another-key-of-it"):
        basic = base64.b64encode(f"anybody:{key}".encode()).decode()
        for value in (f"Bearer {key}", f"bearer  {key}", f"Basic {basic}"):
            assert call(guarded, "GET", "/v1/models", authorization=value)[0] == 200
    for value in ("Basic !!", "Basic", "Bearer", KEY, f"Digest {KEY}"):
        assert call(guarded, "GET", "/v1/models", authorization=value)[0] == 401


def test_adapters_are_managed_under_keys_of_their_own_alone(guarded: HttpServer, server: HttpServer) -> None:
    for path in ADMIN_ROUTES:
        content = {"lora_name": "claims"}
        assert call(guarded, "POST", path, content, authorization=f"Bearer {KEY}")[0] == 401
        assert call(guarded, "POST", path, content, authorization=f"Bearer {ADMIN_KEY}")[0] == 404  # no folder
        assert call(guarded, "POST", f"{path}%0A", content, authorization=f"Bearer {KEY}")[0] == 401
        assert call(server, "POST", path, content)[0] == 404  # no such route
    assert call(guarded, "GET", "/v1/models", authorization=f"Bearer {ADMIN_KEY}")[0] == 401


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "host", ["attacker.example", "attacker.example:8000", "localhost.attacker.example", "", "a@localhost"]
)
def test_a_name_that_the_server_does_not_know_is_refused(server: HttpServer, method: str, host: str) -> None:
    assert call(server, method, "/health", Host=host)[0] in (400, 403)


@pytest.mark.parametrize("header", [b"", b"host:\r\n"])
def test_a_request_without_a_host_is_told_so(server: HttpServer, header: bytes) -> None:
    answer = raw(server, b"GET /health HTTP/1.0\r\n" + header + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"the request has no header host" in answer


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8000", "192.168.1.7:80"])
def test_addresses_and_localhost_are_known(server: HttpServer, host: str) -> None:
    assert call(server, "GET", "/health", Host=host)[0] == 200


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("origin", ["https://attacker.example", "null", "http://localhost:1", "http://127.0.0.1"])
def test_a_page_of_another_site_is_refused_by_every_method(server: HttpServer, method: str, origin: str) -> None:
    assert call(server, method, "/v1/models", Origin=origin)[0] == 403
    status, headers, _ = call(server, method, "/v1/chat/completions", {"model": BASE}, Origin=origin)
    assert status == 403
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "http://\u00bd\u00bc", "//[x", ""])
def test_an_origin_that_cannot_be_read_is_that_of_another_site(server: HttpServer, origin: str) -> None:
    status, _, body = call(server, "GET", "/v1/models", Origin=origin)
    assert status == 403
    assert body["error"]["code"] == "origin_not_allowed"


def test_the_servers_own_page_and_allowed_ones_may_call(server: HttpServer) -> None:
    assert call(server, "GET", "/v1/models", Origin=server.url)[0] == 200
    access = Access(hosts=frozenset({"models.example"}), origins=frozenset({"https://app.example"}))
    access.check(ASKED, Headers({"host": "models.example", "origin": "https://app.example"}))
    with pytest.raises(ApiError, match="another site"):
        access.check(ASKED, Headers({"host": "models.example", "origin": "https://app.example.attacker"}))


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("https://App.example/", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:80", "http://[::1]"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_an_origin_is_taken_as_browsers_write_it(given: str, sent: str) -> None:
    access = access_of(ServeRequest(model="m", allowed_origins=(given,)))
    access.check(ASKED, Headers({"host": "localhost", "origin": sent}))


@pytest.mark.parametrize(
    "given", ["app.example", "https://", "https://app.example/page", "null", "*", "localhost:3000"]
)
def test_what_is_no_origin_is_refused_at_the_start(given: str) -> None:
    with pytest.raises(ConfigError, match="must be an origin"):
        access_of(ServeRequest(model="m", allowed_origins=(given,)))


def test_the_browser_of_an_allowed_page_is_told_what_it_may_send_and_read(assistant: Assistant) -> None:
    """As browsers do: they ask before they send JSON or a key, without it, and hand over what names the origin."""
    page, ask = "https://app.example", {"Access_Control_Request_Method": "POST"}
    wanted = "authorization,content-type,x-stainless-os"
    access = Access(origins=frozenset({page}), keys=Keys([KEY]))
    with serving(assistant, access=access) as (server, _):
        for path in ("/v1/chat/completions", "/v1/models", "/nothing"):
            status, headers, body = call(
                server, "OPTIONS", path, Origin=page, Access_Control_Request_Headers=wanted, **ask
            )
            assert (status, body) == (204, b"")
            assert headers["access-control-allow-origin"] == page
            assert "POST" in headers["access-control-allow-methods"]
            assert headers["access-control-allow-headers"] == wanted
            status, headers, _ = call(server, "OPTIONS", path, Origin="https://attacker.example", **ask)
            assert status == 403
            assert "access-control-allow-origin" not in headers
            assert call(server, "OPTIONS", path, Origin=page)[0] == 401
            assert call(server, "OPTIONS", path, Origin=page, Host="attacker.example", **ask)[0] == 403
        for key, expected in ((KEY, 200), ("wrong", 401)):
            status, headers, _ = call(server, "GET", "/v1/models", Origin=page, Authorization=f"Bearer {key}")
            assert (status, headers["access-control-allow-origin"], headers["vary"]) == (expected, page, "origin")
        status, headers, _ = call(server, "GET", "/v1/models", Authorization=f"Bearer {KEY}")
        assert status == 200
        assert "access-control-allow-origin" not in headers


def test_a_requests_number_comes_back(server: HttpServer) -> None:
    assert call(server, "GET", "/health", X_Request_Id="abc-1")[1]["x-request-id"] == "abc-1"
    own = [call(server, "GET", path, X_Request_Id="a b;c")[1]["x-request-id"] for path in ("/health", "/nothing")]
    assert len({*own}) == 2
    assert all(len(number) == 32 for number in own)


def test_the_paths_of_the_table_are_those_of_the_application(server: HttpServer, tmp_path: Path) -> None:
    for path in GET_ROUTES:
        assert call(server, "GET", path.replace("{model:path}", BASE))[0] == 200
    for path in POST_ROUTES:
        assert call(server, "POST", path, {})[0] == 400
        assert call(server, "GET", path)[0] == 405
