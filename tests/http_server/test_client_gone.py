"""Work for a client that has gone is cancelled, and work for a client that waits is not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from starlette.types import Message, Receive

from veneer.http_server.client_gone import ClientGone, unless_gone


def receiving(messages: Sequence[str]) -> Receive:
    """A connection that brings these messages, and then nothing more."""
    waiting = list(messages)

    async def receive() -> Message:
        if waiting:
            return {"type": waiting.pop(0)}
        return await asyncio.Future()

    return receive


def test_the_result_of_the_work_comes_to_a_client_that_waits() -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        return "answer"

    assert asyncio.run(unless_gone(receiving(["http.request"]), work())) == "answer"


def test_an_error_of_the_work_is_raised() -> None:
    async def work() -> str:
        raise ValueError("no answer")

    with pytest.raises(ValueError, match="no answer"):
        asyncio.run(unless_gone(receiving([]), work()))


def test_the_work_for_a_client_that_has_gone_is_cancelled() -> None:
    cancelled = []

    async def work() -> None:
        try:
            await asyncio.Future()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(ClientGone):
        asyncio.run(unless_gone(receiving(["http.request", "http.disconnect"]), work()))
    assert cancelled == [True]
