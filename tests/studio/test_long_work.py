"""Long work waits for earlier work, and is not done for clients that have gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from starlette.requests import Request
from starlette.types import Message

from veneer.events import Note, Subscriber
from veneer.http_server.client_gone import ClientGone
from veneer.studio.long_work import LongWork

NOTE = Note(message="so far")


class Client:
    """One who asks, and may close its connection."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.request = Request({"type": "http"}, self._receive)

    async def _receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}


def test_a_look_that_nobody_waits_for_is_given_up_and_one_behind_it_not_begun() -> None:
    begun: list[str] = []
    first_begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def long(emit: Subscriber) -> None:
        begun.append("first")
        first_begun.set()
        go_on.wait(30)
        try:
            emit(NOTE)
        except ClientGone:
            ended.set()
            raise

    def short(name: str) -> Callable[[Subscriber], str]:
        def made(emit: Subscriber) -> str:
            begun.append(name)
            emit(NOTE)
            return name

        return made

    async def ask() -> str:
        work, typing, other = LongWork("test"), Client(), Client()
        first = asyncio.ensure_future(work.result(typing.request, long))
        await asyncio.to_thread(first_begun.wait, 30)
        second = asyncio.ensure_future(work.result(typing.request, short("second")))
        third = asyncio.ensure_future(work.result(other.request, short("third")))
        typing.gone.set()
        for one in (first, second):
            with pytest.raises(ClientGone):
                await one
        go_on.set()
        found = await third
        work.close()
        return found

    assert asyncio.run(ask()) == "third"
    assert ended.is_set()
    assert begun == ["first", "third"]
