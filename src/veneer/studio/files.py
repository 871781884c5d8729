"""The uploaded files of rows. Each has a folder of its own, under a name that the studio has chosen."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from veneer.data.files.readers import SUFFIXES
from veneer.errors import ConfigError
from veneer.io.files import atomic_folder, remove_folder, write_text
from veneer.text.strict_json import to_text
from veneer.text.visible import visible_name

RECORD = "file.json"
_ID = re.compile(r"file-[0-9a-f]{24}")


class FileStatus(StrEnum):
    """Whether a file can be trained on, in OpenAI's words."""

    UPLOADED = "uploaded"
    """The file is being checked."""
    PROCESSED = "processed"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """A file of rows."""

    id: str
    filename: str
    """The name that the client gave, as `visible_name` writes it. No file is opened by this name."""
    bytes: int
    created_at: int
    """Seconds since 1970."""
    purpose: str
    suffix: str
    """Its kind: one of `SUFFIXES`."""
    status: FileStatus = FileStatus.UPLOADED
    status_details: str | None = None
    """The result of the check, in one sentence."""
    rows: int | None = None
    asks: bool = False
    """Whether its rows are prompts without answers, which only reinforcement can use."""
    unnamed: bool = False
    """Whether its rows have no keys of a known format, so that only a job that maps its columns can use it."""


class FileStore:
    """The uploaded files in a folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path):
        self._root = root
        self._changed()

    @contextmanager
    def new(self, filename: str, purpose: str) -> Iterator[tuple[StoredFile, Path]]:
        """Yields a new file and the path to write its content to. The file is kept if the block ends without an error.

        Raises:
            ConfigError: the kind of the file is not supported.
            OutputError: the file cannot be written.
        """
        suffix = Path(filename).suffix.lower()
        if suffix not in SUFFIXES:
            raise ConfigError(f"a file of rows ends with one of {', '.join(SUFFIXES)}; got {suffix or 'no ending'!r}")
        file = StoredFile(
            id=f"file-{secrets.token_hex(12)}",
            filename=visible_name(filename)[:255],
            bytes=0,
            created_at=int(time.time()),
            purpose=purpose,
            suffix=suffix,
        )
        with atomic_folder(self._root / file.id) as partial:
            content = partial / f"rows{suffix}"
            yield file, content
            whole = replace(file, bytes=content.stat().st_size)
            (partial / RECORD).write_text(to_text(asdict(whole)), encoding="utf-8")
        self._changed()

    def get(self, name: object) -> StoredFile | None:
        """The file with this id."""
        if not isinstance(name, str) or not _ID.fullmatch(name):
            return None
        try:
            values: dict[str, Any] = json.loads((self._root / name / RECORD).read_text(encoding="utf-8"))
            values["status"] = FileStatus(values["status"])
            return StoredFile(**values)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def all(self) -> list[StoredFile]:
        """All files, the newest first."""
        names = [entry.name for entry in self._root.iterdir()] if self._root.is_dir() else []
        found = [file for file in map(self.get, names) if file is not None]
        return sorted(found, key=lambda file: (-file.created_at, file.id))

    @property
    def stamp(self) -> str:
        """A string that changes whenever a file is added, deleted or updated."""
        return self._stamp

    def _changed(self) -> None:
        self._stamp = secrets.token_hex(8)

    def content(self, file: StoredFile) -> Path:
        """Where the rows of a file are."""
        return self._root / file.id / f"rows{file.suffix}"

    def beside(self, file: StoredFile, name: str) -> Path:
        """The path for further information about a file, next to its rows."""
        return self._root / file.id / name

    def put(self, file: StoredFile) -> None:
        """Replace what is known of a file. Raises OutputError if it cannot be written."""
        if (self._root / file.id).is_dir():
            write_text(self._root / file.id / RECORD, to_text(asdict(file)))
            self._changed()

    def delete(self, file: StoredFile) -> None:
        """Delete a file. Raises OutputError if it cannot be deleted."""
        remove_folder(self._root / file.id)
        shutil.rmtree(self._root / file.id, ignore_errors=True)
        self._changed()
