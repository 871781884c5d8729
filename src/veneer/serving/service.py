"""What all routes share: the engine, the tokenizer and template, the names, the limits and the counters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

from starlette.types import Receive

from veneer.errors import VeneerError
from veneer.generation.engine_thread import POLL_SECONDS, EngineClosed, EngineThread
from veneer.generation.request import GenerationRequest, GenerationResult
from veneer.http_server.errors import ApiError
from veneer.http_server.gone import unless_gone
from veneer.http_server.limits import ServerLimits
from veneer.http_server.slow_work import NeverBegan, SlowWork
from veneer.model.language import ModelSpec
from veneer.serving.answers import Answers
from veneer.serving.grammar import Grammar, Grammars
from veneer.serving.metrics import Metrics
from veneer.serving.models import ModelNames
from veneer.serving.outbox import Outbox
from veneer.serving.prompts import PromptEncoder

VERSION = version("veneer")
RETRY_SECONDS = 1


@dataclass(slots=True)
class Service:
    """One base model with its adapters, ready to answer. All but `drain` and `close` is used on the event loop's
    thread."""

    front: EngineThread
    outbox: Outbox
    """What the engine's thread sends events by, after each step of `front`."""
    spec: ModelSpec
    stop_ids: frozenset[int]
    """Tokens that end an answer unless a request says otherwise."""
    prompts: PromptEncoder
    grammars: Grammars
    models: ModelNames
    metrics: Metrics
    limits: ServerLimits
    created: int
    """When the server was started, in seconds since 1970."""
    base_digest: str
    """Digest of the base: of its files, and of how it is held."""
    base_form: str
    """How the base's linear layers were quantised as it was loaded; empty where they were not."""
    schemas: SlowWork = field(init=False)
    """Where grammars are made."""
    draining: bool = False
    """Whether the server is about to stop, and takes no further requests."""
    _under_way: int = 0

    def __post_init__(self) -> None:
        self.schemas = SlowWork(self.limits.schemas, self.limits.schema_seconds)

    @property
    def accepting(self) -> bool:
        """Whether the engine takes requests."""
        return self.front.accepting

    def drain(self, seconds: float) -> bool:
        """Take no further requests, and wait until those that are there have ended and their clients have taken the
        answers, or for so many seconds; whether all have. Only other threads than the loop's may wait here."""
        end = time.monotonic() + seconds
        ended = self.front.drain(seconds)
        while self._under_way and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        return ended and not self._under_way

    def close(self) -> None:
        """See `EngineThread.close`."""
        self.front.close()

    @property
    def context(self) -> int:
        """The most tokens of a prompt and its answer together."""
        return self.spec.max_positions

    async def constraints(
        self, schema: Mapping[str, Any] | bool, param: str, answers: int, around: str | None = None
    ) -> tuple[Grammar, ...]:
        """A grammar of a schema for each of some answers, made beside the event loop's thread; see
        `Grammars.of_schema`.

        Raises:
            ApiError: see `Grammars.of_schema`; 400 where it takes too long; 503 where others' schemas do.
        """
        try:
            return await self.schemas.do(partial(self._constraints, schema, param, answers, around))
        except TimeoutError as error:
            raise ApiError(
                400,
                f"{param}: the schema takes more than {self.limits.schema_seconds:g} s to prepare; give one with fewer "
                "patterns that must hold at once",
                param=param,
            ) from error
        except NeverBegan as error:
            raise ApiError(
                503,
                f"{param}: the server is busy preparing {self.limits.schemas:,} other schemas, the most at a time; "
                "ask again later",
                param=param,
                headers={"retry-after": str(RETRY_SECONDS)},
            ) from error

    def _constraints(
        self, schema: Mapping[str, Any] | bool, param: str, answers: int, around: str | None
    ) -> tuple[Grammar, ...]:
        first = self.grammars.of_schema(schema, param, around)
        return (first, *(first.copy() for _ in range(answers - 1)))

    def failed(self, error: ApiError) -> dict[str, object]:
        """The last piece of a stream that fails."""
        self.metrics.error(error.status)
        return error.content

    async def results(self, requests: Sequence[GenerationRequest], receive: Receive) -> list[GenerationResult]:
        """The whole answers to some requests.

        Args:
            requests: what is asked.
            receive: see `unless_gone`.

        Raises:
            ApiError: as `answers`; 504, they take too long; 500, the engine could not carry a request out.
            ClientGone: the client has closed its connection.
        """
        async with self.answers(requests) as answers:
            return await unless_gone(receive, answers.results())

    def check(self, requests: Sequence[GenerationRequest]) -> None:
        """Raise ApiError as `answers`. What streams asks before it sends its status, which no error can change then."""
        self._check_room(len(requests))
        try:
            for request in requests:
                self.front.check(request)
        except VeneerError as error:
            raise ApiError(400, str(error)) from error

    def _check_room(self, answers: int) -> None:
        if self.draining or not self.front.accepting:
            raise ApiError(503, "the server is about to stop", headers={"retry-after": str(RETRY_SECONDS)})
        if answers > self.limits.choices:
            raise ApiError(400, f"{answers:,} answers at once; a request may ask for {self.limits.choices:,}")
        if self._under_way + answers > self.limits.sequences:
            raise ApiError(
                429,
                f"{self._under_way:,} answers are under way; the server takes {self.limits.sequences:,} at a time",
                code="queue_full",
                headers={"retry-after": str(RETRY_SECONDS)},
            )

    @asynccontextmanager
    async def answers(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Answers]:
        """Answers to some requests, which are cancelled where the block ends before they do.

        Raises:
            ApiError: 429, too much is under way; 503, the server is about to stop; 400, the engine refuses a request.
        """
        self._check_room(len(requests))
        answers = Answers(asyncio.get_running_loop(), self.outbox, self.metrics, self.limits.request_seconds)
        self._under_way += len(requests)
        try:
            for request in requests:
                answers.submit(self.front, request)
            yield answers
        except EngineClosed as error:
            raise ApiError(503, "the server is about to stop") from error
        except VeneerError as error:
            raise ApiError(400, str(error)) from error
        finally:
            answers.cancel()
            self._under_way -= len(requests)
