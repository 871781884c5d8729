"""What takes long waits behind what was asked before, and is not done for clients that have gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.types import Message

from veneer.config import DataSection
from veneer.enums import RowKind
from veneer.events import Event, Note, Subscriber
from veneer.http_server.gone import ClientGone
from veneer.io.checkpoint import open_checkpoint
from veneer.studio import looks as module
from veneer.studio.looks import LastRows, Looks

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
        def work(emit: Subscriber) -> str:
            begun.append(name)
            emit(NOTE)
            return name

        return work

    async def ask() -> str:
        looks, typing, other = Looks("test"), Client(), Client()
        first = asyncio.ensure_future(looks.look(typing.request, long))
        await asyncio.to_thread(first_begun.wait, 30)
        second = asyncio.ensure_future(looks.look(typing.request, short("second")))
        third = asyncio.ensure_future(looks.look(other.request, short("third")))
        typing.gone.set()
        for one in (first, second):
            with pytest.raises(ClientGone):
                await one
        go_on.set()
        found = await third
        looks.close()
        return found

    assert asyncio.run(ask()) == "third"
    assert ended.is_set()
    assert begun == ["first", "third"]


def test_rows_of_a_form_are_read_once_until_they_or_their_settings_change(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"
    row = '{"prompt": "a", "completion": "b"}\n'
    file.write_text(row * 2)
    read: list[DataSection] = []
    load = module.load_rows

    def counted(data: DataSection, *rest: object) -> object:
        read.append(data)
        return load(data, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "load_rows", counted)
    rows, tokenizer, data = LastRows(), open_checkpoint(str(tiny_model)).tokenizer(), DataSection(file=str(file))
    first: list[Event] = []
    again: list[Event] = []
    made = rows.load(data, tokenizer, first.append, RowKind.ANSWERS)
    assert rows.load(data, tokenizer, again.append, RowKind.ANSWERS) is made
    assert len(read) == 1
    assert [one for one in first if isinstance(one, Note)] == again != []
    assert rows.load(data.model_copy(update={"max_length": 64}), tokenizer, again.append, RowKind.ANSWERS).count == 2
    file.write_text(row * 3)
    assert rows.load(data, tokenizer, again.append, RowKind.ANSWERS).count == 3
    assert len(read) == 3
