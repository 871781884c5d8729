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
"""The bytes that keys and values may use unless the caller says otherwise."""


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
        decoder: the model's tokenizer; without one there is no text, and stop strings are refused.
        stop_ids: tokens that end an answer unless a request says otherwise.
        adapters: the source of the requests' adapters; without one there is only `model`.
        cache_bytes: the bytes that keys and values may use.
        limits: the limits of a step.
        router: for a model with several adapters, is notified whose tokens are computed, by the numbers of the requests
            from 0 on.
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
