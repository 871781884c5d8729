"""The parts that all routes share: the engine, the tokenizer and template, the names, the limits and the counters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

from starlette.types import Receive

from veneer.errors import AdapterError, VeneerError
from veneer.generation.engine_thread import POLL_SECONDS, EngineClosed, EngineThread
from veneer.generation.request import GenerationRequest, GenerationResult
from veneer.http_server.client_gone import unless_gone
from veneer.http_server.errors import ApiError
from veneer.http_server.fields import Fields, ignored_header
from veneer.http_server.limits import ServerLimits
from veneer.http_server.slow_work import NeverBegan, SlowWork
from veneer.model.language import ModelSpec
from veneer.serving.answers import Answers
from veneer.serving.grammar import Grammar, Grammars
from veneer.serving.metrics import Metrics
from veneer.serving.model_names import ModelNames
from veneer.serving.outbox import Outbox
from veneer.serving.prompts import PromptEncoder

VERSION = version("veneer")
RETRY_AFTER_SECONDS = 1


@dataclass(slots=True)
class Service:
    """One base model with its adapters, ready to answer. Only the event loop's thread may use it, except for `drain`
    and `close`."""

    engine: EngineThread
    outbox: Outbox
    """Carries events from the engine's thread to the event loop, after each step of `engine`."""
    spec: ModelSpec
    stop_ids: frozenset[int]
    """The tokens that end an answer, unless a request names others."""
    prompts: PromptEncoder
    grammars: Grammars
    token_bytes: Callable[[int], bytes]
    """Gives the bytes of a token."""
    models: ModelNames
    metrics: Metrics
    limits: ServerLimits
    created: int
    """When the server was started, in seconds since 1970."""
    base_digest: str
    """The digest of the base: of its files, and of its form in memory."""
    base_form: str
    """How the base's linear layers were quantised when it was loaded; empty if they were not."""
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Is held while a request loads an adapter. Adapters are read one after another in any case, and every request that
    waited on a thread for its turn would take one from the few that read all requests."""
    grammar_threads: SlowWork = field(init=False)
    """The threads that make grammars of schemas."""
    draining: bool = False
    """Whether the server is shutting down and accepts no more requests."""
    _under_way: int = 0

    def __post_init__(self) -> None:
        self.grammar_threads = SlowWork(self.limits.schemas, self.limits.schema_seconds)

    @property
    def accepting(self) -> bool:
        """Whether the engine accepts requests."""
        return self.engine.accepting

    def drain(self, seconds: float) -> bool:
        """Accept no more requests, and wait for at most `seconds` until the running ones have ended and their clients
        have read the answers. Returns whether all have. Must not be called on the event loop's thread."""
        end = time.monotonic() + seconds
        ended = self.engine.drain(seconds)
        while self._under_way and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        return ended and not self._under_way

    def close(self) -> None:
        """End all requests; see `EngineThread.close`."""
        self.engine.close()

    @property
    def context(self) -> int:
        """The most tokens of a prompt and its answer together."""
        return self.spec.max_positions

    async def constraints(
        self, schema: Mapping[str, Any] | bool, param: str, answers: int, around: str | None = None
    ) -> tuple[Grammar, ...]:
        """A schema's grammar for each of some answers, made on another thread; see `Grammars.of_schema`.

        Raises:
            ApiError: see `Grammars.of_schema`; 400, it takes too long; 503, the schemas of others occupy all threads.
        """
        try:
            return await self.grammar_threads.do(partial(self._constraints, schema, param, answers, around))
        except TimeoutError as error:
            raise ApiError(
                400,
                f"{param}: preparing the schema takes more than {self.limits.schema_seconds:g} s; give one with fewer "
                "patterns that must hold at once",
                param=param,
            ) from error
        except NeverBegan as error:
            raise ApiError(
                503,
                f"{param}: the server is preparing {self.limits.schemas:,} other schemas, the most at a time; "
                "ask again later",
                param=param,
                headers={"retry-after": str(RETRY_AFTER_SECONDS)},
            ) from error

    def _constraints(
        self, schema: Mapping[str, Any] | bool, param: str, answers: int, around: str | None
    ) -> tuple[Grammar, ...]:
        first = self.grammars.of_schema(schema, param, around)
        return (first, *(first.copy() for _ in range(answers - 1)))

    def ignored(self, fields: Fields) -> dict[str, str]:
        """The header that names the fields of a request that nobody has read; they are counted."""
        names = fields.ignored()
        self.metrics.ignored(len(names))
        return ignored_header(names)

    def counted_error(self, error: ApiError) -> dict[str, object]:
        """The last piece of a stream that has failed; the error is counted."""
        self.metrics.error(error.status)
        return error.content

    async def results(self, requests: Sequence[GenerationRequest], receive: Receive) -> list[GenerationResult]:
        """The whole answers to some requests.

        Args:
            requests: the requests.
            receive: see `unless_gone`.

        Raises:
            ApiError: see `answers`; 504, the answers take too long; 500, the engine could not answer a request.
            ClientGone: the client has closed its connection.
        """
        async with self.answers(requests) as answers:
            return await unless_gone(receive, answers.results())

    def check(self, requests: Sequence[GenerationRequest]) -> None:
        """Raise ApiError as `answers`. A stream calls this before it sends its status, which no later error can
        change."""
        self._check_room(len(requests))
        try:
            for request in requests:
                self.engine.check(request)
        except VeneerError as error:
            raise ApiError(400, str(error)) from error

    def _check_room(self, answers: int) -> None:
        if self.draining or not self.accepting:
            raise ApiError(503, "the server is about to stop", headers={"retry-after": str(RETRY_AFTER_SECONDS)})
        if answers > self.limits.choices:
            raise ApiError(400, f"{answers:,} answers at once; a request may ask for at most {self.limits.choices:,}")
        if self._under_way + answers > self.limits.sequences:
            raise ApiError(
                429,
                f"{self._under_way:,} answers are running, and the server accepts {self.limits.sequences:,}; ask later",
                code="queue_full",
                headers={"retry-after": str(RETRY_AFTER_SECONDS)},
            )

    @asynccontextmanager
    async def answers(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Answers]:
        """The answers to some requests, which are cancelled if the block ends before they do.

        Raises:
            ApiError: 429, too many are running; 503, the server is shutting down; 404, the adapter has been unloaded
                meanwhile; 400, the engine refuses a request.
        """
        self._check_room(len(requests))
        answers = Answers(asyncio.get_running_loop(), self.outbox, self.metrics, self.limits.request_seconds)
        self._under_way += len(requests)
        try:
            for request in requests:
                answers.submit(self.engine, request)
            yield answers
        except EngineClosed as error:
            raise ApiError(503, "the server is about to stop") from error
        except AdapterError as error:  # it was unloaded after the request was read
            raise ApiError(404, str(error), param="model", code="model_not_found") from error
        except VeneerError as error:
            raise ApiError(400, str(error)) from error
        finally:
            answers.cancel()
            self._under_way -= len(requests)
