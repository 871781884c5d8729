"""Answers that are sent piece by piece: whole where the client waits, closed at once where it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message

from veneer.http_server.stream import EVENT_STREAM_TYPE, LAST_EVENT, StreamedResponse, event, line


def test_events_and_lines_are_json() -> None:
    assert event({"a": "é"}) == 'data: {"a":"é"}\n\n'.encode()
    assert line({"a": [1]}) == b'{"a":[1]}\n'
    assert LAST_EVENT == b"data: [DONE]\n\n"


def served(pieces: AsyncGenerator[bytes], *, goes: bool) -> list[Message]:
    """What is sent to a client that waits, or one that goes before the second piece."""
    sent: list[Message] = []

    async def run() -> None:
        gone = asyncio.Event()

        async def receive() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)
            if goes and message.get("body"):
                gone.set()

        await asyncio.wait_for(StreamedResponse(pieces, EVENT_STREAM_TYPE, {"x-more": "1"})({}, receive, send), 10)

    asyncio.run(run())
    return sent


@pytest.mark.parametrize("goes", [False, True])
def test_whoever_makes_the_pieces_is_closed_whether_the_client_stays_or_goes(goes: bool) -> None:
    closed = []

    async def pieces() -> AsyncGenerator[bytes]:
        try:
            yield b"one"
            await asyncio.sleep(3600 if goes else 0)
            yield b"two"
        finally:
            closed.append(True)

    sent = served(pieces(), goes=goes)
    assert closed == [True]
    headers = dict(sent[0]["headers"])
    assert headers[b"content-type"] == EVENT_STREAM_TYPE.encode()
    assert headers[b"x-more"] == b"1"
    bodies = [message["body"] for message in sent[1:]]
    assert bodies == ([b"one"] if goes else [b"one", b"two", b""])
