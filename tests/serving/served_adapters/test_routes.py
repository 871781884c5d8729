"""Adapters are loaded and unloaded by name, under keys of their own; a stale generation is a conflict for good."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import openai
import pytest
from openai import OpenAI

from helpers.servers.served import ADAPTER, BASE, FixedAdapters, call, serving
from veneer.assistant.assistant import Assistant
from veneer.http_server.guard import Access
from veneer.http_server.keys import Keys
from veneer.http_server.server import HttpServer
from veneer.model.language import LanguageModel
from veneer.serving.served_adapters.catalogue import AdapterVersion
from veneer.serving.served_adapters.routes import LOAD_PATH, UNLOAD_PATH

KEY = "a-key-of-the-admin"


@pytest.fixture
def managed(assistant: Assistant, other: LanguageModel) -> Iterator[HttpServer]:
    with serving(assistant, adapters={ADAPTER: other}, access=Access(admin_keys=Keys([KEY]))) as (server, _):
        yield server


def ask(server: HttpServer, path: str, **content: object) -> tuple[int, dict[str, str], dict[str, object]]:
    return call(server, "POST", path, content, authorization=f"Bearer {KEY}")


def test_a_reload_counts_up_and_a_stale_generation_is_409_that_no_client_repeats(managed: HttpServer) -> None:
    status, _, answer = ask(managed, LOAD_PATH, lora_name=ADAPTER, expected_generation=1)
    assert (status, answer["generation"]) == (200, 2)
    status, headers, _ = ask(managed, LOAD_PATH, lora_name=ADAPTER, expected_generation=1)
    assert status == 409
    assert headers["x-should-retry"] == "false"
    with OpenAI(base_url=managed.url, api_key=KEY, max_retries=5) as client, pytest.raises(openai.ConflictError):
        client.post(LOAD_PATH, body={"lora_name": ADAPTER, "expected_generation": 7}, cast_to=object)
    listed = call(managed, "GET", "/v1/models")[2]["data"]
    assert [entry.get("generation") for entry in listed] == [None, 2]
    assert listed[1]["parent"] == listed[0]["id"]


def test_loads_wait_for_one_another_without_a_thread_and_others_are_answered_meanwhile(
    managed: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, answered, begun, under_way, most = FixedAdapters.load, Event(), Event(), list[str](), 0

    def slow(adapters: FixedAdapters, name: str, expected_generation: int | None) -> AdapterVersion:
        nonlocal most
        under_way.append(name)
        most = max(most, len(under_way))
        begun.set()
        assert answered.wait(60)
        under_way.remove(name)
        return load(adapters, name, expected_generation)

    monkeypatch.setattr(FixedAdapters, "load", slow)
    with ThreadPoolExecutor(8) as pool:
        loads = [pool.submit(ask, managed, LOAD_PATH, lora_name=ADAPTER) for _ in range(8)]
        assert begun.wait(60)
        try:
            for _ in range(4):
                assert (
                    call(managed, "POST", "/v1/completions", {"model": BASE, "prompt": "a", "max_tokens": 2})[0] == 200
                )
        finally:
            answered.set()
        assert sorted(one.result()[2]["generation"] for one in loads) == list(range(2, 10))  # type: ignore[type-var]
    assert most == 1


def test_an_adapter_that_is_not_there_is_404_however_it_is_asked_for(managed: HttpServer) -> None:
    for path in (LOAD_PATH, UNLOAD_PATH):
        status, _, answer = ask(managed, path, lora_name="nobodys")
        assert (status, answer["error"]["code"]) == (404, "model_not_found")  # type: ignore[index]


def test_an_unloaded_adapter_is_404(managed: HttpServer) -> None:
    assert ask(managed, UNLOAD_PATH, lora_name=ADAPTER)[0] == 200
    assert ask(managed, UNLOAD_PATH, lora_name=ADAPTER)[0] == 404
    assert call(managed, "GET", f"/v1/models/{ADAPTER}")[0] == 404
    assert call(managed, "POST", "/v1/completions", {"model": ADAPTER, "prompt": "a"})[0] == 404


def test_an_adapter_that_comes_under_the_bases_name_is_refused(assistant: Assistant, other: LanguageModel) -> None:
    with serving(assistant, adapters={ADAPTER: other}, access=Access(admin_keys=Keys([KEY]))) as (server, service):
        assert isinstance(service.models.catalogue, FixedAdapters)
        found = service.models.catalogue.models
        found[BASE] = other
        status, _, answer = ask(server, LOAD_PATH, lora_name=BASE)
        assert (status, answer["error"]["param"]) == (400, "lora_name")  # type: ignore[index]
        assert service.models.catalogue.generations == {}


def test_a_path_of_the_clients_is_never_read(managed: HttpServer) -> None:
    for path in ("/etc/passwd", "../elsewhere"):
        status, _, answer = ask(managed, LOAD_PATH, lora_name=ADAPTER, lora_path=path)
        assert status == 400
        assert answer["error"]["param"] == "lora_path"  # type: ignore[index]
    assert ask(managed, LOAD_PATH, lora_name="/etc")[0] == 404
    assert ask(managed, LOAD_PATH)[0] == 400
    assert ask(managed, LOAD_PATH, lora_name=ADAPTER, expected_generation=-1)[0] == 400
