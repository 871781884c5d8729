"""A file of answers, written line by line, that a killed job resumes.

Lines are complete: the rest of a line that a kill has left is cut off when the file is opened again. Next to the file
is `NAME.job`, which records what the answers follow from; a job with other questions or another model is refused.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from veneer.errors import ConfigError, DataError, OutputError, listing
from veneer.io.files import reported, write_text
from veneer.io.proofs import prove_file
from veneer.runtime.posix import lock_patiently
from veneer.text.strict_json import to_text
from veneer.text.whole_lines import append_line

HELD_KEY = "held"
"""The key in the note for how the base's linear layers are held. Notes of older jobs do not have it, and such jobs are
resumed."""
ROW_KEY = "row"
"""The key of a line that has the number of its question, from 0 on."""
FLUSH_SECONDS = 1.0
"""The most seconds of answers that a failure of the machine can lose; they are computed again."""


class AnswersFile:
    """The answers to a list of questions, a line of JSON each, in order. Use as a context manager.

    Args:
        path: the path of the file.
        job: what the answers follow from, by name.

    Raises:
        ConfigError: the file has the answers of another job.
        DataError: it is not a file of answers.
        OutputError: it cannot be written, or another process writes it.
    """

    def __init__(self, path: Path, job: Mapping[str, Any]):
        self._path = path
        check_kind(path)
        note = _note_of(path)
        with reported(path):
            self._file = path.open("a+b", buffering=0)
        with ExitStack() as unfinished:
            unfinished.callback(self._file.close)
            self._lock()
            if has_answers(path):
                _check_job(path, note, job)
            else:  # an existing note is that of a job that was stopped before its first answer
                write_text(note, to_text(dict(job), indent=2, ensure_ascii=False) + "\n")
            self.done = self._recover()
            """The number of answers in the file when it was opened."""
            unfinished.pop_all()
        self._flushed = time.monotonic()

    def append(self, line: Mapping[str, Any]) -> None:
        """Add the next answer. Raises OutputError."""
        with reported(self._path):
            append_line(self._file, to_text(dict(line), ensure_ascii=False).encode() + b"\n")
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                os.fsync(self._file.fileno())
                self._flushed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file, reported(self._path):
            os.fsync(self._file.fileno())

    def _lock(self) -> None:
        try:
            lock_patiently(self._file)
        except BlockingIOError as error:
            raise OutputError(f"{self._path}: another process is writing answers there; wait for it") from error
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be locked: {error.strerror}") from error

    def _recover(self) -> int:
        """Cut off an incomplete line, and count the others."""
        self._file.seek(0)
        end = count = 0
        with reported(self._path), self._path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                if _row_of(line) != count:
                    raise DataError(
                        f"{self._path}, line {count + 1}: is not the answer to row {count}; give another file"
                    )
                end, count = end + len(line), count + 1
            self._file.truncate(end)
        return count


def check_kind(path: Path) -> None:
    """Raise OutputError for a path that cannot hold answers: a device, a pipe, a folder."""
    with reported(path):
        strange = path.exists() and not path.is_file()
    if strange:
        raise OutputError(
            f"{path}: is not a file, and answers are kept in a file so that the command can resume; give another "
            "--output, or leave it out to print the answers"
        )


def prove_answers_file(path: Path) -> None:
    """Check that answers can be written at `path`, before anything expensive starts.

    Raises:
        OutputError: they cannot.
    """
    check_kind(path)
    if not has_answers(path):
        prove_file(path)
        prove_file(_note_of(path))


def _note_of(path: Path) -> Path:
    """The file that says what the answers in a file follow from."""
    return path.with_name(f"{path.name}.job")


def has_answers(path: Path) -> bool:
    """Whether there is a file of answers that is not empty."""
    return path.exists() and path.stat().st_size > 0


def _check_job(path: Path, note: Path, job: Mapping[str, Any]) -> None:
    """Raise an error if a file has the answers of another job, or of no job."""
    try:
        before = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: exists already, without {note.name} next to it; give another --output") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{note}: cannot be read: {error}") from error
    before = before if isinstance(before, dict) else {}
    now = json.loads(to_text(dict(job)))
    if HELD_KEY not in before:
        now.pop(HELD_KEY, None)
    other = _differences(before, now)
    if other:
        raise ConfigError(f"{path}: has answers of another job; give another --output:\n{listing(other)}")


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> list[str]:
    """The differences between two jobs, each by its own path, because whole objects would be cut off before the
    difference."""
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{within}{name}.")
        elif old != new:
            found.append(f"{within}{name}: {old!r:.100}, now {new!r:.100}")
    return found


def _row_of(line: bytes) -> object:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found.get(ROW_KEY) if isinstance(found, dict) else None
