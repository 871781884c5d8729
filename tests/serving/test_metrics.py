"""The figures count what was done, under vLLM's names, and no label is an adapter's name."""

from __future__ import annotations

import json
import socket

from prometheus_client.parser import text_string_to_metric_families

from helpers.servers.served import ADAPTER, BASE, call, serving, until
from veneer.assistant.assistant import Assistant
from veneer.http_server.server import HttpServer
from veneer.model.language import LanguageModel


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
