"""The requests to the engine, and its answers, event by event."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from torch import Tensor

from veneer.errors import ConfigError, DataError, listing
from veneer.generation.sampling import Sampling

MAX_LOGPROBS = 20
"""The most alternatives whose log-probabilities are given for a token, as in OpenAI's interface."""
MAX_STOPS = 16
"""The most stop strings of a request."""

STREAMS_PER_SEED = 1_000_003
"""The number of random streams of a seed."""


class Constraint(Protocol):
    """Restricts the next token, for example by a grammar. It is called on the engine's thread."""

    def restrict(self, scores: Tensor) -> None:
        """Set the scores of forbidden tokens to −∞, in place; float32 `[vocab_size]` on the CPU.

        Raises:
            ConfigError: it cannot say what may come next; the request ends with this error.
        """
        ...

    def accept(self, token: int) -> None:
        """Take the token that was chosen."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """A prompt to continue.

    Raises:
        DataError: the prompt has no token.
        ConfigError: the stop strings or the number of log-probabilities are out of range.
    """

    prompt: tuple[int, ...]
    """Token ids, at least one."""
    sampling: Sampling = field(default_factory=Sampling)
    stream: int = 0
    """The number of the random stream of the sampling's seed, by which several answers to one prompt differ."""
    adapter: str | None = None
    """The name of the adapter; None is the base."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer. They are not part of its text, regardless of the tokens that form them."""
    stop_ids: frozenset[int] | None = None
    """Tokens that end the answer and are not part of it; None means the engine's, an empty set means none."""
    logprobs: int | None = None
    """How many alternatives' log-probabilities to give with each new token; None gives no log-probabilities, 0 only the
    token's own."""
    prompt_logprobs: int | None = None
    """How many alternatives to give with each of the prompt's tokens. The prompt is then
    computed without shared beginnings."""
    constraint: Constraint | None = None
    """Restricts the tokens that may be chosen."""
    cut_to_cache: bool = False
    """Whether the answer ends at the end of the cache, if `max_new_tokens` may exceed it; otherwise such a request is
    refused. The capacity of the cache depends on the adapter, so it is known once the adapter is loaded."""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise DataError("there is nothing to continue; give at least one token")
        problems = []
        if len(self.stop) > MAX_STOPS or "" in self.stop:
            problems.append(f"stop: {len(self.stop)} strings, must be at most {MAX_STOPS}, and none may be empty")
        if not 0 <= self.stream < STREAMS_PER_SEED:
            problems.append(f"stream: {self.stream}, must be at least 0 and below {STREAMS_PER_SEED:,}")
        for name, number in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            if number is not None and not 0 <= number <= MAX_LOGPROBS:
                problems.append(f"{name}: {number}, must be between 0 and {MAX_LOGPROBS}")
        if problems:
            raise ConfigError(f"the request is out of range:\n{listing(problems)}")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability of a token under the model's own logits: before biases, penalties and temperature."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens with their log-probabilities, best first."""


@dataclass(frozen=True, slots=True)
class PromptScored:
    """Log-probabilities of the prompt's tokens. It comes before the first new token."""

    logprobs: tuple[TokenLogprob | None, ...]
    """A value for each token of the prompt; None for the first token, which has none before it."""


@dataclass(frozen=True, slots=True)
class TokenMade:
    """A new token, and the text that has become certain with it.

    A character may need several tokens, and a possible beginning of a stop string is held back. A token's text may
    therefore come with a later token or with `Finished`.
    """

    token: int
    text: str
    """Empty if no text has become certain, or if the engine has no tokenizer."""
    logprob: TokenLogprob | None


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    """A stop token or a stop string came."""
    LENGTH = "length"
    """`max_new_tokens` were generated, or as many as the cache holds (`GenerationRequest.cut_to_cache`)."""
    CANCELLED = "cancelled"
    """The caller cancelled the request, or the engine was closed."""
    ERROR = "error"
    """The request could not be carried out; `Finished.error` says why."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of every request."""

    reason: FinishReason
    text: str
    """The rest of the text."""
    prompt_tokens: int
    cached_tokens: int
    """Tokens of the prompt that were not computed, because a beginning was shared."""
    new_tokens: int
    """Tokens of the answer; a stop token is none of them."""
    stop: str | int | None = None
    """The stop string, or the stop token."""
    end: TokenLogprob | None = None
    """The stop token's log-probability, where a stop token came and log-probabilities are wanted."""
    error: str | None = None
    refused: bool = False
    """Whether the request itself caused the error."""
    adapter_key: bytes | None = None
    """`LoadedAdapter.key` of the adapter version that answered; None for the base, and if none was loaded."""

    @property
    def made_tokens(self) -> int:
        """Tokens that the model made: those of the answer, and the stop token if one came."""
        return self.new_tokens + isinstance(self.stop, int)


GenerationEvent = PromptScored | TokenMade | Finished


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A whole answer."""

    tokens: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...]
    """A value for each token, where the request wanted them; that of a stop token is `finished.end`."""
    prompt_logprobs: tuple[TokenLogprob | None, ...]
    finished: Finished


class GenerationHandle:
    """A request in progress. Events may be taken on any thread.

    Args:
        request: the request.
        on_event: called on the engine's thread with every event, for callers that wait elsewhere (asyncio's
            `loop.call_soon_threadsafe`); by default events are kept until they are taken.
        wake: called by `cancel`, so that an idle engine wakes up.
    """

    def __init__(
        self,
        request: GenerationRequest,
        on_event: Callable[[GenerationEvent], None] | None = None,
        wake: Callable[[], None] = lambda: None,
    ):
        self.request, self._wake = request, wake
        self._events: queue.SimpleQueue[GenerationEvent] = queue.SimpleQueue()
        self._on_event = on_event or self._events.put
        self.cancelled = False
        self.finished: Finished | None = None
        self.adapter_key: bytes | None = None
        """`LoadedAdapter.key` of the version of the adapter that answers; the engine sets it before the first event."""

    def cancel(self) -> None:
        """Ask the engine to end the request before its next step; `Finished` still comes."""
        self.cancelled = True
        self._wake()

    def emit(self, event: GenerationEvent) -> None:
        """Pass an event on. The engine calls this."""
        if isinstance(event, Finished):
            self.finished = event
        self._on_event(event)

    def ready(self) -> list[GenerationEvent]:
        """The events that have come and have not been taken, without waiting."""
        found = []
        while not self._events.empty():
            found.append(self._events.get())
        return found

    def events(self, timeout: float | None = None) -> Iterator[GenerationEvent]:
        """All events up to `Finished`, waiting for each; another thread must step the engine.

        Raises:
            queue.Empty: no event came within `timeout` seconds.
        """
        while True:
            event = self._events.get(timeout=timeout)
            yield event
            if isinstance(event, Finished):
                return

    def result(self, timeout: float | None = None) -> GenerationResult:
        """The whole answer; waits as `events` does."""
        return gathered(self.events(timeout))


def gathered(events: Iterator[GenerationEvent]) -> GenerationResult:
    """The whole answer, from all of its events."""
    tokens: list[int] = []
    pieces: list[str] = []
    logprobs: list[TokenLogprob] = []
    prompt: tuple[TokenLogprob | None, ...] = ()
    for event in events:
        if isinstance(event, PromptScored):
            prompt = event.logprobs
        elif isinstance(event, TokenMade):
            tokens.append(event.token)
            pieces.append(event.text)
            logprobs += [] if event.logprob is None else [event.logprob]
        else:
            pieces.append(event.text)
            return GenerationResult(tuple(tokens), "".join(pieces), tuple(logprobs), prompt, event)
    raise ValueError("the events of a request end with Finished")
