"""Counters and times for Prometheus. They have vLLM's names, so that its dashboards work.

No label holds the name of an adapter, because a thousand adapters would make a thousand series of each metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from veneer.generation.engine import EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TIMES = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """The metrics of one server.

    Args:
        model: the base's name, a label of every metric.
        stats: gets the statistics of the engine.
    """

    def __init__(self, model: str, stats: Callable[[], EngineStats]):
        self._registry = CollectorRegistry()
        self._registry.register(_EngineFigures(model, stats))
        self._model = model

        def seconds(name: str, text: str) -> Histogram:
            histogram = Histogram(f"vllm:{name}", text, ["model_name"], registry=self._registry, buckets=_TIMES)
            return histogram.labels(model)

        self._first = seconds("time_to_first_token_seconds", "Seconds from a request to its first token.")
        self._between = seconds("inter_token_latency_seconds", "Seconds between two tokens of an answer.")
        self._whole = seconds("e2e_request_latency_seconds", "Seconds from a request to its answer's end.")
        self._ended = Counter(
            "vllm:request_success_total",
            "Answers by the reason of their end.",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )
        self._errors = Counter(
            "veneer:http_errors_total", "Answers with an error by status.", ["status"], registry=self._registry
        )
        self._ignored = Counter(
            "veneer:ignored_fields_total", "Fields of requests that were ignored.", registry=self._registry
        )

    def first_token(self, seconds: float) -> None:
        """Record the first token of an answer."""
        self._first.observe(seconds)

    def between_tokens(self, seconds: float) -> None:
        """Record a further token."""
        self._between.observe(seconds)

    def finished(self, reason: str, seconds: float) -> None:
        """Record the end of an answer."""
        self._whole.observe(seconds)
        self.ended(reason)

    def ended(self, reason: str) -> None:
        """Count the end of an answer without its time, since its client may have stopped waiting for it."""
        self._ended.labels(self._model, reason).inc()

    def error(self, status: int) -> None:
        """Count a request that was refused or failed."""
        self._errors.labels(str(status)).inc()

    def ignored(self, fields: int) -> None:
        """Count the ignored fields of a request."""
        self._ignored.inc(fields)

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self._registry)


class _EngineFigures(Collector):
    """The engine's own metrics, read when the metrics are requested."""

    def __init__(self, model: str, stats: Callable[[], EngineStats]):
        self._model, self._stats = model, stats

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        stats = self._stats()
        gauges = {
            "num_requests_running": (stats.running, "Answers that are being computed."),
            "num_requests_waiting": (stats.waiting, "Answers that are waiting."),
            "kv_cache_usage_perc": (
                (stats.cache_bytes - stats.cache_idle_bytes) / max(1, stats.cache_budget),
                "Share of the cache that running answers use, from 0 to 1.",
            ),
        }
        counters = {
            "prefix_cache_queries": (stats.asked_tokens, "Prompt tokens that were looked up in the cache."),
            "prefix_cache_hits": (stats.shared_tokens, "Prompt tokens that were found in the cache."),
            "prompt_tokens": (stats.prompt_tokens, "Prompt tokens that were computed."),
            "generation_tokens": (stats.new_tokens, "Tokens that were generated."),
            "num_preemptions": (stats.preemptions, "How often an answer lost its cache and was computed again."),
        }
        for name, (value, text) in gauges.items():
            gauge = GaugeMetricFamily(f"vllm:{name}", text, labels=["model_name"])
            gauge.add_metric([self._model], value)
            yield gauge
        for name, (count, text) in counters.items():
            counter = CounterMetricFamily(f"vllm:{name}", text, labels=["model_name"])
            counter.add_metric([self._model], count)
            yield counter
