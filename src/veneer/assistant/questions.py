"""The questions in a file: the rows of a data file, or the lines of a text file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from veneer.assistant.prompts import turns, under
from veneer.data.asked_rows import asked_row
from veneer.data.encoded.chat import split_for_evaluation
from veneer.data.files.file_starts import text_start
from veneer.data.files.readers import SUFFIXES, iterate_rows
from veneer.data.forms.formats import Remarks, to_record
from veneer.data.forms.record import Record
from veneer.data.forms.turns import Message
from veneer.data.problems import RowProblem
from veneer.data.records import account, usable
from veneer.enums import Column
from veneer.errors import DataError, listing
from veneer.text.counting import count_of

TEXTS = (".txt", "")
"""The endings of text files, whose lines are questions; a pipe (/dev/stdin) has no ending."""
ADAPTER = "adapter"
"""The key by which a row names its adapter."""


@dataclass(frozen=True, slots=True)
class FileQuestion:
    """A question of a file."""

    text: str
    """The question, formatted for people."""
    messages: Sequence[Message]
    """The conversation that the question ends."""
    adapter: str | None = None
    """The name of the adapter that answers; None is the model as loaded."""


def asks_rows(path: Path) -> bool:
    """Whether a file's questions are rows of a data file, and not lines of text, by its ending.

    Raises:
        DataError: the ending is neither; lines of another format would be asked unparsed.
    """
    ending = path.suffix.lower()
    if ending in SUFFIXES or ending in TEXTS:
        return ending in SUFFIXES
    raise DataError(
        f"{path} ends in {path.suffix!r}; veneer asks the rows of {', '.join(SUFFIXES)} and the lines of .txt: give it "
        "the ending of what it holds, or save it as one of these"
    )


def read_questions(path: Path, system: str | None, columns: Mapping[Column, str] | None = None) -> list[FileQuestion]:
    """The questions of a file.

    In a data file (JSONL, JSON, CSV, Parquet), a question is the turns before the last answer of each row, or the whole
    row if it has no answer yet, and the adapter that the row names. In a text file (.txt, or no ending), each line is a
    question.

    Args:
        path: the file.
        system: a system message, for conversations that have none.
        columns: from veneer's name of a column or key to the data file's, where they differ.

    Raises:
        DataError: the file cannot be read, is neither by its ending, or holds no question; or rows ask nothing, or name
            an adapter by something other than text. The error names all such rows.
    """
    if asks_rows(path):
        return _of_rows(path, system, columns or {})
    return [FileQuestion(line, turns(system, line)) for line in _lines(path)]


def _lines(path: Path) -> list[str]:
    """The lines of a text file; empty ones are skipped."""
    try:
        # Read once: a pipe has each byte but once.
        text = text_start(path, path.read_bytes()).decode()
        # Any line end is one; not splitlines(), which splits on rarer characters.
        lines = [line.removesuffix("\n") for line in StringIO(text, newline=None) if line.strip()]
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror}; give a data file, or a text file with a question on each line"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text: {error}") from error
    if not lines:
        raise DataError(f"{path}: holds no question; write one on each line")
    return lines


def _of_rows(path: Path, system: str | None, columns: Mapping[Column, str]) -> list[FileQuestion]:
    def read(row: Any, where: str) -> tuple[Record, Any]:
        return to_record(asked_row(row, columns), where), row.get(ADAPTER)

    refused: list[RowProblem] = []
    asking = list(usable(iterate_rows(path, columns=columns), read, refused))
    account(str(path), len(asking), refused, Remarks(), None)
    questions, problems, misnamed = [], [], []
    for record, name in asking:
        parts = None if record.tools else split_for_evaluation(record)
        if record.tools:
            problems.append(f"{record.where}: has tools, which generate does not support")
        elif parts is None:
            problems.append(f"{record.where}: has no turn with an answer in text")
        elif name is not None and not isinstance(name, str):
            misnamed.append(f"{record.where}: {ADAPTER} must be a name, not {name!r:.40}")
        else:
            messages = under(system, parts[0])
            asked = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
            questions.append(FileQuestion(asked, messages, name or None))
    if problems:
        raise DataError(f"{count_of(len(problems), 'row')} cannot be asked as questions:\n{listing(problems)}")
    if misnamed:
        raise DataError(
            f"{count_of(len(misnamed), 'row')} with an adapter's name that cannot be one:\n{listing(misnamed)}"
        )
    return questions
