"""The figures count what was done, under vLLM's names, and no label is an adapter's name."""

from __future__ import annotations

import json
import socket

from prometheus_client.parser import text_string_to_metric_families

from helpers.servers.served import ADAPTER, BASE, call, serving, until
from veneer.assistant.assistant import Assistant
from veneer.http_server.guard import Access
from veneer.http_server.keys import Keys
from veneer.http_server.server import HttpServer
from veneer.model.language import LanguageModel
from veneer.serving.app import ADMIN_ROUTES, POST_ROUTES
from veneer.serving.served_adapters.routes import LOAD_PATH, UNLOAD_PATH


def figures(server: HttpServer) -> dict[str, float]:
    """Sums of all samples by name."""
    status, headers, text = call(server, "GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            assert ADAPTER not in sample.labels.values()
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_figures_count_what_was_done(assistant: Assistant, other: LanguageModel) -> None:
    with serving(assistant, adapters={ADAPTER: other}) as (server, service):
        for name in (BASE, ADAPTER):
            content = {"model": name, "prompt": [5, 6, 7, 8], "max_tokens": 6, "n": 2, "ignore_eos": True, "unknown": 1}
            assert call(server, "POST", "/v1/completions", content)[0] == 200
        assert call(server, "POST", "/v1/completions", {})[0] == 400
        assert until(lambda: service.engine.stats().running == 0)
        found = figures(server)
    assert found["vllm:generation_tokens_total"] == 24
    assert found["vllm:prompt_tokens_total"] == 16
    assert found["vllm:request_success_total"] == 4
    assert found["vllm:time_to_first_token_seconds_count"] == 4
    assert found["vllm:inter_token_latency_seconds_count"] == 20
    assert found["vllm:e2e_request_latency_seconds_count"] == 4
    assert found["vllm:num_requests_running"] == found["vllm:num_requests_waiting"] == 0
    assert 0 <= found["vllm:kv_cache_usage_perc"] <= 1
    assert found["veneer:ignored_fields_total"] == 2
    assert found["veneer:http_errors_total"] == 1
    for name in ("prefix_cache_queries_total", "prefix_cache_hits_total", "num_preemptions_total"):
        assert f"vllm:{name}" in found


def test_ignored_fields_are_counted_on_every_route(assistant: Assistant, other: LanguageModel) -> None:
    turns = [{"role": "user", "content": "a"}]
    contents: dict[str, dict[str, object]] = {
        "/v1/chat/completions": {"messages": turns, "max_tokens": 1},
        "/v1/completions": {"prompt": "a", "max_tokens": 1},
        "/tokenize": {"prompt": "a"},
        "/detokenize": {"tokens": [5]},
        "/api/show": {},
        "/api/chat": {"messages": turns, "options": {"num_predict": 1}, "stream": False},
        "/api/generate": {},
        LOAD_PATH: {"lora_name": ADAPTER},
        UNLOAD_PATH: {"lora_name": ADAPTER},
    }
    assert contents.keys() == POST_ROUTES.keys() | ADMIN_ROUTES.keys()
    access = Access(admin_keys=Keys(["a-key-of-the-admin"]))
    with serving(assistant, adapters={ADAPTER: other}, access=access) as (server, _):
        for count, (path, content) in enumerate(contents.items(), start=1):
            model = {} if "lora_name" in content else {"model": BASE}
            found = call(
                server, "POST", path, content | model | {"unknown": 1}, authorization="Bearer a-key-of-the-admin"
            )
            assert (found[0], found[1]["x-veneer-ignored-fields"]) == (200, "unknown"), path
            assert figures(server)["veneer:ignored_fields_total"] == count, path


def test_answers_whose_client_has_gone_are_counted_too(assistant: Assistant) -> None:
    content = {"model": BASE, "prompt": [5, 6, 7], "max_tokens": 400, "n": 64, "ignore_eos": True}
    with serving(assistant) as (server, service):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            body = json.dumps(content).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            assert until(lambda: service.engine.stats().new_tokens > 0)
        assert until(lambda: figures(server).get("vllm:request_success_total") == 64)
        assert b'finished_reason="cancelled"' in call(server, "GET", "/metrics")[2]


def test_what_the_gate_refuses_is_counted_too(assistant: Assistant) -> None:
    with serving(assistant) as (server, _):
        assert call(server, "GET", "/v1/models", host="elsewhere.example")[0] == 403
        assert figures(server)["veneer:http_errors_total"] == 1
