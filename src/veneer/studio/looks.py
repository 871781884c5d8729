"""What takes long and somebody waits for: one after another on a thread of its own, so that the pages have theirs.

An estimate reads and tokenises all rows of its file, and the form asks for one after each change. One that nobody waits
for any more is not begun, or given up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from starlette.requests import Request

from veneer.config import DataSection
from veneer.data.rows import Rows, load_rows
from veneer.enums import RowKind
from veneer.events import Event, Note, Subscriber
from veneer.http_server.gone import ClientGone, unless_gone
from veneer.io.tokenizer import Tokenizer

MOST_KEPT = 32 * 10**6
"""Bytes of a file whose encoded rows are kept for the next estimate; they take about three times as much memory. From
100 MB on `data.cache` keeps them on the disk."""
T = TypeVar("T")


class Looks:
    """Carries out what clients wait for, on one thread.

    Args:
        name: what the thread is called.
    """

    def __init__(self, name: str):
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._closing = threading.Event()

    async def look(self, request: Request, work: Callable[[Subscriber], T]) -> T:
        """The result of some work, which waits until what was asked before is done.

        Args:
            request: the request of the client that waits; its body has been read.
            work: is given a subscriber to tell how far it is, by which it ends where nobody waits any more.

        Raises:
            ClientGone: the client has closed its connection.
        """
        gone = threading.Event()

        def hear(event: Event) -> None:
            if gone.is_set() or self._closing.is_set():
                raise ClientGone

        try:
            future = self._pool.submit(work, hear)
            return await unless_gone(request.receive, asyncio.wrap_future(future))
        finally:
            gone.set()

    def close(self) -> None:
        """Begin nothing more, and give up what is under way."""
        self._closing.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Kept:
    """The rows that were read last."""

    key: tuple[object, ...]
    """All that they follow from."""
    rows: Rows
    told: tuple[Note, ...]
    """What was said of them."""


class LastRows:
    """Reads the rows of a run as `load_rows` does, and keeps the last ones: of a form's fields few change them. It is
    for one thread."""

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def load(self, data: DataSection, tokenizer: Tokenizer, emit: Subscriber, kind: RowKind) -> Rows:
        """See `veneer.data.rows.load_rows`."""
        key = _key(data, tokenizer, kind)
        kept = self._kept
        if key is not None and kept is not None and kept.key == key:
            for event in kept.told:
                emit(event)
            return kept.rows
        self._kept = None  # before others take its memory
        told: list[Note] = []

        def hear(event: Event) -> None:
            if isinstance(event, Note):
                told.append(event)
            emit(event)

        rows = load_rows(data, tokenizer, hear, kind)
        if key is not None:
            self._kept = _Kept(key, rows, tuple(told))
        return rows


def _key(data: DataSection, tokenizer: Tokenizer, kind: RowKind) -> tuple[object, ...] | None:
    """What rows follow from; None where they are not kept."""
    files = [Path(name) for name in (data.file, data.eval_file) if name is not None]
    if not files or data.sources or not all(file.is_file() for file in files):
        return None
    found = [file.stat() for file in files]
    if sum(one.st_size for one in found) > MOST_KEPT:
        return None
    stamps = tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)
    return data.model_dump_json(), stamps, tokenizer.digest(), tokenizer.template_date, kind
