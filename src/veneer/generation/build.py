"""An engine for a model: the runner that suits it, and the cache's budget."""

from __future__ import annotations

from veneer.generation.cohort import CohortRunner, Router
from veneer.generation.engine import GenerationEngine
from veneer.generation.paged import PagedRunner
from veneer.generation.runner import AdapterSource, Runner
from veneer.generation.scheduler import Limits
from veneer.generation.text import TokenDecoder
from veneer.model.language import LanguageModel

CACHE_BYTES = 10**9
"""Bytes that keys and values may take unless the caller says otherwise."""


def build_engine(
    model: LanguageModel,
    *,
    decoder: TokenDecoder | None = None,
    stop_ids: frozenset[int] = frozenset(),
    adapters: AdapterSource | None = None,
    cache_bytes: int = CACHE_BYTES,
    limits: Limits | None = None,
    router: Router | None = None,
) -> GenerationEngine:
    """An engine of one base model, in evaluation mode, whose weights must not change while the engine is in use.

    Args:
        model: the base, or a model with one adapter that all requests are under.
        decoder: its tokenizer; without one there is no text, and stop strings are refused.
        stop_ids: tokens that end an answer unless a request says otherwise.
        adapters: where the adapters of requests come from; without a source there is `model` alone.
        cache_bytes: bytes that keys and values may take.
        limits: what a step may take.
        router: where the model has several adapters in it, says whose tokens are computed, by the numbers of the
            requests from 0 on.
    """
    limits = limits or Limits()
    return GenerationEngine(
        _runner(model, limits, router),
        model,
        cache_bytes=cache_bytes,
        limits=limits,
        decoder=decoder,
        stop_ids=stop_ids,
        adapters=adapters,
    )


def _runner(model: LanguageModel, limits: Limits, router: Router | None) -> Runner:
    cohorts = CohortRunner(model, limits.block_tokens, router)
    step = model.compiled_step(limits.step_tokens) if router is None else None
    return cohorts if step is None else PagedRunner(step, limits.block_tokens, cohorts)
