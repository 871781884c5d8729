"""Long work that a client waits for. It runs one piece after another on a thread of its own, so that it does not hold
up the pages.

An estimate reads and tokenises all rows of its file, and the form asks for one after each change. Work for which nobody
waits any more is not begun, or is given up.
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

MOST_KEPT_FILE_BYTES = 32 * 10**6
"""Largest size, in bytes, of a file whose encoded rows are kept for the next estimate. In memory, the rows need about
three times as much. From 100 MB on, `data.cache` keeps them on the disk."""
T = TypeVar("T")


class Looks:
    """Carries out work that clients wait for, on one thread.

    Args:
        name: the name of the thread.
    """

    def __init__(self, name: str):
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._closing = threading.Event()

    async def look(self, request: Request, work: Callable[[Subscriber], T]) -> T:
        """The result of some work. The work begins when all earlier work is done.

        Args:
            request: the request of the client that waits; its body has been read.
            work: the work. It gets a subscriber for its progress, which ends the work if nobody waits any more.

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
        """Begin no further work, and give up the work under way."""
        self._closing.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Kept:
    """The rows that were read last."""

    key: tuple[object, ...]
    """Everything that determines the rows."""
    rows: Rows
    told: tuple[Note, ...]
    """The notes that were emitted about the rows."""


class LastRows:
    """Reads the rows of a run as `load_rows` does, and keeps the last ones: few of a form's fields change the rows. It
    may be used from one thread only."""

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
        self._kept = None  # frees its memory before the new rows are read
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
    """Everything that determines the rows; None if they are not kept."""
    files = [Path(name) for name in (data.file, data.eval_file) if name is not None]
    if not files or data.sources or not all(file.is_file() for file in files):
        return None
    found = [file.stat() for file in files]
    if sum(one.st_size for one in found) > MOST_KEPT_FILE_BYTES:
        return None
    stamps = tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)
    return data.model_dump_json(), stamps, tokenizer.digest(), tokenizer.template_date, kind
