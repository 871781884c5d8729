"""What Ollama's own client finds when it looks: the version, the models, and one of them."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import ollama
import pytest

from helpers.servers.served import ADAPTER, BASE, CPU, call, serving
from veneer.assistant.load import open_assistant
from veneer.http_server.server import HttpServer


def test_the_base_and_the_adapters_are_listed(server: HttpServer) -> None:
    client = ollama.Client(host=server.url)
    try:
        assert [model.model for model in client.list().models] == [BASE, ADAPTER]
        assert [model.model for model in client.ps().models] == [BASE]
        for name in (BASE, ADAPTER, f"{ADAPTER}:latest"):
            assert client.show(name).capabilities == ["completion"]
        with pytest.raises(ollama.ResponseError, match="there is no model '"):
            client.show("nobody")
    finally:
        client._client.close()


def test_a_base_in_other_codes_has_another_digest(server: HttpServer, tiny_model: Path) -> None:
    def digests(server: HttpServer) -> dict[str, str]:
        return {one["name"]: one["digest"] for one in call(server, "GET", "/api/tags")[2]["models"]}

    with serving(open_assistant(tiny_model, method="qlora", compute=CPU)) as (quantised, _):
        assert digests(quantised)[BASE] != digests(server)[BASE] == sha256(BASE.encode()).hexdigest()


def test_the_version_is_json_and_so_is_what_is_not_there(server: HttpServer) -> None:
    assert set(call(server, "GET", "/api/version")[2]) == {"version"}
    status, _, answer = call(server, "GET", "/api/blobs")
    assert status == 404
    assert isinstance(answer["error"], str)
