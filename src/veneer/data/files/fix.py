"""Repair what needs no judgement, into a new file: encoding, white space, names of roles, exact duplicates.

Every change is reported, and a row that needs none is written with its own bytes. The repairs are:

- UTF-8 that was read as Windows-1252 is undone where this is certain (`lint.mojibake`); byte-order marks are removed.
  One at the beginning of a file is not part of a row, and is not reported.
- Line ends become `\\n`. The contents of a conversation lose blank lines before them and white space after them. A
  prompt of two strings keeps its end, which its completion continues.
- A turn's role with another known name gets the name that veneer reads.
- Tool calls and tool declarations keep white space, line ends and names: they are data of a program.
- Values that JSON does not have become text: dates, decimals and bytes, which Parquet has.
- A row that equals an earlier one exactly, after all of this, is left out.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Any

from veneer.data.files.json_rows import parse_line
from veneer.data.files.json_values import BadRow, unusable_at
from veneer.data.files.readers import iterate_rows
from veneer.data.files.sources import files_named
from veneer.data.forms.turns import SAME_ROLE, SHAREGPT_ROLES
from veneer.data.lint.mojibake import repaired
from veneer.errors import DataError, OutputError, listing
from veneer.io.files import atomic_file
from veneer.io.leftovers import held, remove_dead
from veneer.text.counting import count_of
from veneer.text.strict_json import to_text

_ROLES = {
    "system": "system", "sys": "system", "human": "user", "user": "user", "prompter": "user", "customer": "user",
    "question": "user", "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "ai": "assistant",
    "chatbot": "assistant", "model": "assistant", "chatgpt": "assistant", "answer": "assistant", "tool": "tool",
    "function": "tool", "observation": "tool", "ipython": "tool",
}  # fmt: skip
"""Names of roles in data files, in lower case, with veneer's names."""
_WHOLE = frozenset({"content", "value", "instruction", "input", "output", "system"})
"""Keys of independent texts in a row or a turn, in which surrounding white space has no meaning."""
_TOOL_ROLES = frozenset({"tool", "function", "observation", "ipython"})
_OF_TOOLS = frozenset({"tool_calls", "function_call", "arguments", "tools", "functions"})
"""Keys of values that a program reads, in which a key like `content` or `from` is the name of an argument."""
_SAID = frozenset({"content", "tool_calls", "function_call"})
"""In OpenAI's spelling, one of these keys comes with the role of a turn."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a row."""

    where: str
    """The file and line of the row in the file that was read."""
    text: str
    """What was changed."""


@dataclass(frozen=True, slots=True)
class FixResult:
    """The result of repairing a file."""

    output: Path
    rows: int
    """The number of rows in the new file."""
    left_out: int
    """The number of rows that are not in the new file; each of them has its change."""
    changes: int
    """The number of changes."""
    unreadable: int
    """The number of rows that cannot be read or written. Lines of JSON Lines are copied to the new file unchanged, and
    rows of other formats are left out."""


@dataclass(frozen=True, slots=True)
class _Place:
    """The place of a value in its row."""

    path: str = ""
    key: str = ""
    role: str | None = None
    """The speaker, for a value directly in a turn or in the row itself; None for others."""
    in_turn: bool = False
    """Whether the value is directly in a turn."""
    of_tools: bool = False
    """Whether the value is part of a tool call or declaration."""

    def item(self, index: int) -> _Place:
        """The place of an item of the list at this place."""
        return _Place(f"{self.path}[{index}]", of_tools=self.of_tools)

    def fields(self, value: dict[Any, Any]) -> Iterator[tuple[Any, Any, _Place]]:
        """Each key and value of the dictionary at this place, with the value's place."""
        turn = bool(self.path) and not self.of_tools and _is_turn(value)
        role = str(value.get("role", value.get("from", ""))) if turn or not self.path else None
        for name, item in value.items():
            path = f"{self.path}.{name}" if self.path else str(name)
            yield name, item, _Place(path, str(name), role, turn, self.of_tools or name in _OF_TOOLS)


def _is_turn(value: dict[Any, Any]) -> bool:
    return ("role" in value and not _SAID.isdisjoint(value)) or ("from" in value and "value" in value)


def fix(file: Path | str, output: Path | str, on_change: Callable[[Change], None]) -> FixResult:
    """Write a repaired copy of a data file, as JSON Lines, atomically.

    Args:
        file: the file, which is not changed. A pattern that matches one file, or a dataset of the hub, is a file too.
        output: the new file, whose name ends in `.jsonl` and which must not exist.
        on_change: called with every change.

    Raises:
        OutputError: the new file exists, has another suffix, or cannot be written; or a number is not finite in a file
            without lines that could be copied.
        DataError: the file cannot be read at all, there are several, or a row contains bytes that are not text.
    """
    file, output = _one_file(str(file)), Path(output)
    if output.suffix.lower() != ".jsonl":
        raise OutputError(f"{output} ends in {output.suffix!r}; repaired rows are JSON Lines: name the file .jsonl")
    if output.exists():
        raise OutputError(f"{output} exists already; give a new name, since files are not repaired in place")
    seen: dict[bytes, str] = {}
    rows = left_out = changes = unreadable = 0
    by_line = file.suffix.lower() == ".jsonl"

    def tell(where: str, text: str) -> None:
        nonlocal changes
        changes += 1
        on_change(Change(where, text))

    remove_dead(output.parent, output.name)
    with atomic_file(output) as partial, held(partial), partial.open("wb") as target:
        for where, raw, line, marks in _lines(file):
            for text in marks:
                tell(where, text)
            if isinstance(raw, BadRow):
                # A line with nothing but a byte-order mark is not a row, and nothing is lost with it.
                unreadable += line is not None or not by_line
                if line is None:
                    left_out += 1
                    tell(where, f"left out, since it cannot be read: {raw}")
                else:
                    rows += 1
                    target.write(line)
                continue
            mended, texts = _mended_row(where, raw)
            written, problem = _written(where, mended, line, changed=bool(texts))
            if problem is not None:
                unreadable += 1
                texts = [f"left unchanged: {problem}"]
            for text in texts:
                tell(where, text)
            key = _key(mended)
            if key in seen:
                left_out += 1
                tell(where, f"left out, since it repeats {seen[key]} exactly")
                continue
            seen[key] = where
            rows += 1
            target.write(written)
    return FixResult(output, rows, left_out, changes, unreadable)


def _one_file(name: str) -> Path:
    files = files_named(name)
    if len(files) > 1:
        raise DataError(
            f"{name} matches {len(files)} files, but only one is repaired at a time, into its own new file; name one:\n"
            f"{listing([str(file) for file in files])}"
        )
    return files[0]


def _mended_row(where: str, row: Any) -> tuple[Any, list[str]]:
    try:
        return mend(row)
    except BadRow as problem:
        raise DataError(f"{where}: {problem}") from problem


def mend(row: Any) -> tuple[Any, list[str]]:
    """A repaired copy of a row, and a sentence for every change; the row itself if nothing was changed.

    Raises:
        BadRow: the row contains bytes that are not text.
    """
    texts: list[str] = []
    mended = _mended(row, _Place(), texts)
    return (mended, texts) if texts else (row, [])


def _mended(value: Any, place: _Place, texts: list[str]) -> Any:
    if isinstance(value, dict):
        return {name: _mended(item, inner, texts) for name, item, inner in place.fields(value)}
    if isinstance(value, list | tuple):
        return [_mended(item, place.item(index), texts) for index, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float):
        return value
    if not isinstance(value, str):
        value = _as_text(value, place.path, texts)
    if place.in_turn and place.key in ("role", "from"):
        return _named(value, place.path, SAME_ROLE if place.key == "role" else SHAREGPT_ROLES, texts)
    mended = _encoded(value, place.path, texts)
    return mended if place.of_tools else _spaced(mended, place, texts)


def _as_text(value: Any, path: str, texts: list[str]) -> str:
    """The text for a value that JSON does not have: bytes are decoded as UTF-8, and a date becomes a form that veneer
    reads."""
    text = _decoded(value) if isinstance(value, bytes) else str(value)
    if text is None:
        raise BadRow(
            f"{path} contains {count_of(len(value), 'byte')} that cannot be decoded as text, and JSON Lines has no "
            "bytes; write the file without this column"
        )
    texts.append(
        f"{path}: a value of type {type(value).__name__} is now the text {text[:60]!r}{'…' * (len(text) > 60)}"
    )
    return text


def _decoded(value: bytes) -> str | None:
    """The text of bytes in UTF-8; None if they are not UTF-8, or contain a NUL."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if unusable_at(text) is None else None


def _named(name: str, path: str, known: dict[str, str], texts: list[str]) -> str:
    if name in known:
        return name
    role = _ROLES.get(name.strip().lower())
    if role is None:
        return name
    texts.append(f"{path}: {name!r} is now {role!r}")
    return role


def _encoded(text: str, path: str, texts: list[str]) -> str:
    # The text on both sides of a byte-order mark may be a damaged letter without it. Every pass shortens the text.
    while (mended := _encoded_once(text, path, texts)) != text:
        text = mended
    return text


def _encoded_once(text: str, path: str, texts: list[str]) -> str:
    mended = repaired(text)
    if mended != text:
        pieces = [f"{a!r} is now {b!r}" for a, b in _differences(text)]
        texts.append(f"{path}: {', '.join(pieces[:3])}{' and more' if len(pieces) > 3 else ''}")
    if "\ufeff" in mended:
        texts.append(f"{path}: byte-order marks are removed")
        mended = mended.replace("\ufeff", "")
    return mended


def _differences(text: str) -> Iterator[tuple[str, str]]:
    """Each damaged run of a text, with its repaired form."""
    for run in re.findall(r"[^\x00-\x7f]+", text):
        if repaired(run) != run:
            yield run, repaired(run)


def _spaced(text: str, place: _Place, texts: list[str]) -> str:
    path, role = place.path, place.role
    mended = text.replace("\r\n", "\n").replace("\r", "\n")
    if mended != text:
        texts.append(f"{path}: line ends are \\n")
    if place.key in _WHOLE and role is not None and role not in _TOOL_ROLES:
        # White space before the first words of a line may be the indentation of code.
        stripped = re.sub(r"\A(?:[ \t]*\n)+", "", mended).rstrip()
        if stripped != mended:
            count = len(mended) - len(stripped)
            texts.append(f"{path}: white space around it is removed ({count_of(count, 'character')})")
            mended = stripped
    elif path == "completion" and mended.rstrip() != mended:
        texts.append(f"{path}: white space after it is removed")
        mended = mended.rstrip()
    return mended


def _key(row: Any) -> bytes:
    """A hash of a row's values, independent of the order of its keys."""
    return blake2b(json.dumps(row, sort_keys=True).encode(), digest_size=16).digest()


def _line(where: str, row: Any) -> bytes:
    try:
        return to_text(row, ensure_ascii=False).encode() + b"\n"
    except OutputError as error:
        raise OutputError(f"{where}: {error}") from error


def _written(where: str, row: Any, line: bytes | None, *, changed: bool) -> tuple[bytes, str | None]:
    """The line of a repaired row; if JSON cannot write its numbers, the old line with the reason."""
    if line is not None and not changed:
        return line, None
    try:
        return _line(where, row), None
    except OutputError as error:
        if line is None:
            raise
        return line, str(error)


def _lines(file: Path) -> Iterator[tuple[str, Any, bytes | None, list[str]]]:
    """Each row with its place; for JSON Lines also its line, and the changes of that line."""
    rows = iterate_rows(file)
    # The reader comes first: it gives the error if the file does not exist.
    first = list(islice(rows, 1))
    if file.suffix.lower() != ".jsonl":
        for where, raw in chain(first, rows):
            yield where, raw, None, []
        return
    with file.open("rb") as handle:
        # Like the reader: a byte-order mark at the beginning of the file and blank lines are skipped.
        start = next(handle, b"").removeprefix(codecs.BOM_UTF8)
        lines = (line for line in chain([start], handle) if line.strip())
        for (where, raw), line in zip(chain(first, rows), lines, strict=True):
            yield where, *_unmarked(raw, line.rstrip(b"\r\n") + b"\n")


def _unmarked(raw: Any, line: bytes) -> tuple[Any, bytes | None, list[str]]:
    """A row and its line without leading byte-order marks, which occur in files that were concatenated."""
    rest = line
    while rest.startswith(codecs.BOM_UTF8):
        rest = rest.removeprefix(codecs.BOM_UTF8)
    if rest == line:
        return raw, line, []
    if not rest.strip():
        return BadRow("a byte-order mark, and nothing else"), None, []
    return parse_line(rest), rest, ["the byte-order mark before the row is removed"]
