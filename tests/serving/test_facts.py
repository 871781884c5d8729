"""What the server says of its models."""

from __future__ import annotations

from helpers.servers.served import ADAPTER, BASE, call
from veneer.http_server.server import HttpServer


def test_a_model_is_shown_by_its_name(server: HttpServer) -> None:
    for name in (BASE, ADAPTER):
        assert call(server, "GET", f"/v1/models/{name}")[2]["id"] == name


def test_a_name_that_no_model_has_is_404_and_an_empty_one_is_missing(server: HttpServer) -> None:
    status, _, answer = call(server, "GET", "/v1/models/other")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    status, _, answer = call(server, "GET", "/v1/models/")
    assert status == 400
    assert answer["error"]["message"].startswith("model: missing")
