"""The rows of the last plan, kept for the next one: few fields of a job's form change the rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from veneer.config import DataSection
from veneer.data.rows import Rows, load_rows
from veneer.enums import RowKind
from veneer.events import Event, Note, Subscriber
from veneer.io.tokenizer import Tokenizer

MOST_KEPT_FILE_BYTES = 32 * 10**6
"""Largest size, in bytes, of a file whose encoded rows are kept for the next estimate. In memory, the rows need about
three times as much. From 100 MB on, `data.cache` keeps them on the disk."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """The rows that were read last."""

    key: tuple[object, ...]
    """Everything that determines the rows."""
    rows: Rows
    told: tuple[Note, ...]
    """The notes that were emitted about the rows."""


class LastRows:
    """Reads the rows of a run as `load_rows` does, and keeps the last ones. It may be used from one thread only."""

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
