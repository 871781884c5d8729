"""Generation for many prompts at once, each ending on its own.

A row's tokens depend on its prompt, the settings and its own random stream alone, never on which rows it shared a batch
with: bit for bit where the compiled library computes, else beyond the rounding of products of another height.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

from veneer.errors import DataError, ModelError, listing
from veneer.generation.build import CACHE_BYTES, build_engine
from veneer.generation.cohort import Router
from veneer.generation.context import within
from veneer.generation.pace import Pace
from veneer.generation.request import (
    STREAMS_PER_SEED,
    Finished,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    GenerationResult,
    TokenMade,
    gathered,
)
from veneer.generation.sampling import Sampling
from veneer.generation.scheduler import BLOCK_TOKENS, Limits
from veneer.generation.text import TokenDecoder
from veneer.model.language import LanguageModel
from veneer.model.mode import evaluation_mode

OnToken = Callable[[int, int], None]
"""Called with the index of a prompt and its next token, as it comes."""

OnAnswer = Callable[[int, list[int]], None]
"""Called with the index of a prompt and all tokens of its answer, when this has ended."""

OnProgress = Callable[[int, float, str], None]
"""Called after every step with how many rows have ended in it, how many rows' worth is done of those under way, and the
tokens that were made so far, in words."""

BATCH_ROWS = 192
"""Most rows that are decoded together."""
REQUESTS_PER_ROW = 4
"""The number of requests that the engine holds for each row decoded together. It admits them in order and looks no
further ahead, so more would change nothing, but would cost memory and time in every step."""


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    stop_ids: frozenset[int],
    on_token: OnToken = lambda row, token: None,
    on_progress: OnProgress = lambda ended, under_way, made: None,
    batch_rows: int = BATCH_ROWS,
    context: int | None = None,
    router: Router | None = None,
    streams: Sequence[int] | None = None,
) -> list[list[int]]:
    """Continue every prompt until a stop token, or `max_new_tokens`.

    Args:
        model: base, or base with adapter.
        prompts: token ids, at least one each.
        sampling: how tokens are chosen. Each prompt draws from a random stream of its own, numbered by its index.
        stop_ids: tokens that end a row; they are not part of the result.
        on_token: receives every new token (streaming).
        on_progress: receives every step (progress).
        batch_rows: the most rows that are decoded together, which affects memory and speed.
        context: most tokens of a prompt together with what continues it, more than the longest prompt has; None for no
            such bound.
        router: for prompts under several adapters, says which adapter each is under, by its index.
        streams: the number of each prompt's random stream, if that is not its index. After `STREAMS_PER_SEED` of them
            the first is used again.

    Returns:
        The new tokens of each prompt, in the order of `prompts`.

    Raises:
        ConfigError: `max_new_tokens` is more than the model's context, or a prompt has a token that the model lacks.
        DataError: a prompt has no token; all such are named.
        ModelError: no token can be drawn from the model's logits for a prompt.
    """
    empty = [f"prompt {number}" for number, prompt in enumerate(prompts, start=1) if not prompt]
    if empty:
        raise DataError(f"there is nothing to continue, give at least one token:\n{listing(empty)}")

    if context is not None:
        sampling.check_context(context)  # as requested: below it is cut to the room that each prompt leaves

    def settings(prompt: Sequence[int]) -> Sampling:
        return sampling if context is None else within(sampling, len(prompt), context)

    requests = [
        GenerationRequest(
            prompt=tuple(prompt), sampling=settings(prompt), stream=stream % STREAMS_PER_SEED, stop_ids=stop_ids
        )
        for stream, prompt in zip(range(len(prompts)) if streams is None else streams, prompts, strict=True)
    ]
    return answer_all(
        model,
        requests,
        on_token=on_token,
        on_progress=on_progress,
        batch_rows=batch_rows,
        router=router,
    )


def answer_all(
    model: LanguageModel,
    requests: Sequence[GenerationRequest],
    *,
    decoder: TokenDecoder | None = None,
    on_token: OnToken = lambda row, token: None,
    on_answer: OnAnswer = lambda row, tokens: None,
    on_progress: OnProgress = lambda ended, under_way, made: None,
    stop: Callable[[], bool] = lambda: False,
    batch_rows: int = BATCH_ROWS,
    cache_bytes: int = CACHE_BYTES,
    router: Router | None = None,
) -> list[list[int]]:
    """Carry out requests, each with its own settings and ends; `decoder` is the tokenizer, for those with stop strings.

    `stop` is called after every step of the engine; true ends all requests with the tokens that they have. `on_answer`
    receives every answer as it ends, for callers that keep those made before an interruption. `cache_bytes` is the most
    that keys and values may use; a single request gets what it needs. The other arguments, the result and the errors
    are those of `generate`. The tokens of a stop string are among those returned.
    """
    results: list[list[int]] = [[] for _ in requests]

    def listen(row: int, event: GenerationEvent) -> None:
        if isinstance(event, TokenMade):
            results[row].append(event.token)
            on_token(row, event.token)
        elif isinstance(event, Finished) and event.reason is not FinishReason.ERROR:
            on_answer(row, results[row])

    _carry_out(
        model,
        requests,
        listen,
        on_progress=on_progress,
        stop=stop,
        decoder=decoder,
        rows=batch_rows,
        cache_bytes=cache_bytes,
        router=router,
    )
    return results


def whole_answers(
    model: LanguageModel,
    requests: Sequence[GenerationRequest],
    *,
    on_progress: OnProgress = lambda ended, under_way, made: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[GenerationResult]:
    """Carry out requests as `answer_all` does, and return all that is known of each answer: its log-probabilities if
    the request wants them, and how it ended (`CANCELLED` where `stop` was true before)."""
    events: list[list[GenerationEvent]] = [[] for _ in requests]
    _carry_out(model, requests, lambda row, event: events[row].append(event), on_progress=on_progress, stop=stop)
    return [gathered(iter(own)) for own in events]


def _carry_out(
    model: LanguageModel,
    requests: Sequence[GenerationRequest],
    on_event: Callable[[int, GenerationEvent], None],
    *,
    on_progress: OnProgress,
    stop: Callable[[], bool],
    decoder: TokenDecoder | None = None,
    rows: int = BATCH_ROWS,
    cache_bytes: int = CACHE_BYTES,
    router: Router | None = None,
) -> None:
    """Carry out requests; `on_event` receives the events of each, with its index. Raises ModelError as `generate`."""
    pace = Pace(requests)
    failed: list[str] = []

    def listener(row: int) -> Callable[[GenerationEvent], None]:
        def listen(event: GenerationEvent) -> None:
            if isinstance(event, TokenMade):
                pace.made(row)
            elif isinstance(event, Finished):
                pace.ended(row)
                if event.reason is FinishReason.ERROR:
                    failed.append(f"prompt {row + 1}: {event.error}")
            on_event(row, event)

        return listen

    longest = max((len(one.prompt) + one.sampling.max_new_tokens for one in requests), default=0)
    asked = 0
    cache, limits = batch_cache(model, longest, cache_bytes), batch_limits(rows)
    with (
        evaluation_mode(model),
        closing(build_engine(model, decoder=decoder, cache_bytes=cache, limits=limits, router=router)) as engine,
    ):
        for request in requests:
            engine.check(request)  # before anything is computed, in case it can never be carried out
        going, ended = True, 0
        while going:
            while asked < len(requests) and asked - pace.answers < REQUESTS_PER_ROW * rows:
                engine.submit(requests[asked], on_event=listener(asked))
                asked += 1
            going = engine.step() or asked < len(requests)
            if failed:
                raise ModelError(failed[0])
            on_progress(pace.answers - ended, pace.under_way(), f"{pace.tokens:,} tokens")
            ended = pace.answers
            going = going and not stop()
    for row in range(asked, len(requests)):  # requests that were not submitted before `stop`
        on_event(row, _never_begun(requests[row]))


def batch_cache(model: LanguageModel, longest: int, most: int = CACHE_BYTES) -> int:
    """Bytes of the cache of many requests: `most`, or more if one whose prompt and answer have `longest` tokens needs
    more."""
    return max(most, cached_bytes(model, longest))


def cached_bytes(model: LanguageModel, tokens: int) -> int:
    """The most bytes of the cache that a request whose prompt and answer have so many tokens needs."""
    return model.row_bytes(tokens + 2 * BLOCK_TOKENS)


def batch_limits(rows: int = BATCH_ROWS) -> Limits:
    """The limits of a step for many requests, where nobody waits for a next token."""
    return Limits(sequences=rows, prompt_seconds=None)


def _never_begun(request: GenerationRequest) -> Finished:
    prompt = len(request.prompt)
    return Finished(reason=FinishReason.CANCELLED, text="", prompt_tokens=prompt, cached_tokens=0, new_tokens=0)
