"""The answers of a cold server: every question alone, on a new engine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from veneer.assistant.assistant import Assistant
from veneer.errors import AdapterError, ModelError, VeneerError
from veneer.generation.build import build_engine
from veneer.generation.request import FinishReason, gathered
from veneer.generation.runner import LoadedAdapter
from veneer.serving.openai_api.completions import Echo, completion_choice
from veneer.serving.openai_api.logprobs import TokenBytes
from veneer.serving.selfcheck.comparison import whole_answer
from veneer.serving.selfcheck.questions import MOST_SEQUENCE_TOKENS, CheckQuestion


@dataclass(frozen=True, slots=True)
class OneAdapter:
    """An adapter in memory, whatever its name (`veneer.generation.runner.AdapterSource`)."""

    adapter: LoadedAdapter
    error: VeneerError | None = None

    def lease(self, name: str, on_ready: Callable[[], None]) -> OneAdapter:
        """See `AdapterSource.lease`."""
        return self

    def release(self) -> None:
        """See `AdapterLease.release`."""


def cold_answer(
    assistant: Assistant, adapter: LoadedAdapter | None, question: CheckQuestion, token_bytes: TokenBytes
) -> dict[str, Any]:
    """The answer to a question on a new engine, in the form of `whole_answer`.

    Args:
        assistant: the base.
        adapter: the adapter that answers; None for the base.
        question: the question.
        token_bytes: gives the bytes of a token.

    Raises:
        ModelError, AdapterError: the question could not be answered.
    """
    request = question.request()
    engine = build_engine(
        assistant.model,
        decoder=assistant.tokenizer,
        stop_ids=assistant.stop_ids,
        adapters=None if adapter is None else OneAdapter(adapter),
        cache_bytes=assistant.model.row_bytes(2 * MOST_SEQUENCE_TOKENS),
    )
    with closing(engine):
        handle = engine.submit(request)
        while engine.step():
            pass
    result = gathered(iter(handle.ready()))
    if result.finished.reason is FinishReason.ERROR:
        kind = ModelError if adapter is None else AdapterError
        raise kind(f"question {question.number} cannot be answered: {result.finished.error}")
    echo = Echo(request, result, token_bytes) if question.echo else None
    return whole_answer(completion_choice(0, request, result, token_bytes, echo=echo))
