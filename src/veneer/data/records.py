"""Read a data file into records, and name every row that cannot be used.

Formats are told apart by the keys of a row; the first line of this table that fits decides, and further keys are
ignored::

    messages                        chat: [{"role": ..., "content": ...}, ...], optional row key "tools"
    conversations                   ShareGPT: [{"from": ..., "value": ...}, ...], optional "system" and "tools"
    prompt + completion             two strings, or two lists of messages of which only the second trains
    instruction (+ input) + output  Alpaca, optional "system"
    text                            plain text, every token trains

Rules for a conversation: it holds at least one assistant turn; consecutive turns of one role and turns after the last
assistant turn are allowed (what follows the last assistant turn is read by the model but never trained); a key whose
value is null counts as absent. Files are UTF-8, with or without a BOM and with either kind of line end.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from veneer.errors import DataError, listing, nearest

Message = dict[str, Any]
"""One turn: "role" and "content", and whatever else the file says ("tool_calls", "name", "reasoning_content", ...)."""

ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
FORMATS = "messages | conversations | prompt + completion | instruction (+ input) + output | text"
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

_UNUSABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a data file: either a conversation (`messages`) or a plain text (`text`)."""

    where: str
    """File and line ("train.jsonl:12"); for JSON and Parquet the number of the row, from 1."""
    messages: tuple[Message, ...] = ()
    """The conversation, oldest turn first; empty where the row is plain text."""
    tools: tuple[dict[str, Any], ...] | None = None
    """Descriptions of the tools that the conversation may call."""
    text: str | None = None
    """A plain text, all of which trains."""
    prompt: str | None = None
    """For a model without a chat template: what comes before `completion`; set for prompt/completion and Alpaca."""
    completion: str | None = None
    """For a model without a chat template: what is trained after `prompt`. In an Alpaca row it begins with the blank
    line that separates it from the instruction."""
    train_from: int = 0
    """Assistant turns before this index of `messages` are context only (the prompt of a prompt/completion row)."""


class _BadRow(Exception):
    """Why one row cannot be used; caught where rows are collected."""


def read_records(path: Path | str) -> list[Record]:
    """Read every row of a JSONL, JSON, CSV or Parquet file.

    Raises:
        DataError: the file is missing, of an unknown kind or without rows, or some rows cannot be used; one error
            names all of them (at most 20 shown, with the count of the rest).
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder; name one data file ({', '.join(SUFFIXES)})")
    if not path.is_file():
        raise DataError(f"{path} does not exist; check the path of the data file")
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} ends in {path.suffix!r}; veneer reads {', '.join(SUFFIXES)}")
    records: list[Record] = []
    problems: list[str] = []
    try:
        for where, row in reader(path):
            try:
                if isinstance(row, _BadRow):
                    raise row
                records.append(_record(row, where))
            except _BadRow as problem:
                problems.append(f"{where}: {problem}")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if problems:
        total = len(records) + len(problems)
        raise DataError(f"{path}: {len(problems)} of {total} rows cannot be used:\n{listing(problems)}")
    if not records:
        raise DataError(f"{path} holds no rows; a data file needs at least one")
    return records


def duplicates(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Rows whose content repeats an earlier row's exactly, as (where the repeat is, where it was first)."""
    seen: dict[bytes, str] = {}
    repeats = []
    for record in records:
        first = seen.setdefault(_fingerprint(record), record.where)
        if first is not record.where:
            repeats.append((record.where, first))
    return repeats


def overlap(train: Sequence[Record], heldout: Sequence[Record]) -> list[tuple[str, str]]:
    """Held-out rows that are also training rows, exactly, as (where in `heldout`, where first in `train`)."""
    known: dict[bytes, str] = {}
    for record in train:
        known.setdefault(_fingerprint(record), record.where)
    pairs = [(record.where, known.get(_fingerprint(record))) for record in heldout]
    return [(where, first) for where, first in pairs if first is not None]


def _fingerprint(record: Record) -> bytes:
    content = json.dumps([record.messages, record.tools, record.text, record.train_from], sort_keys=True)
    return blake2b(content.encode(), digest_size=16).digest()


# ---------------------------------------------------------------- files to rows
# A reader yields (where, row); a row that could not even be parsed is yielded as the _BadRow that says why.


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as handle:
        for number, raw in enumerate(handle, start=1):
            if number == 1:
                raw = _without_bom(raw, path)
            if raw.strip():
                yield f"{path}:{number}", _parse_json_line(raw)


def _parse_json_line(raw: bytes) -> Any:
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return _BadRow(f"invalid UTF-8 at byte {error.start} of the line (0x{raw[error.start]:02x})")
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        # A raw NUL is what a file truncated by a crash looks like; JSON's own wording would not say so.
        nul = line.find("\x00")
        if nul >= 0:
            return _BadRow(f"a NUL character at column {nul + 1}; remove it")
        return _BadRow(f"invalid JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return _BadRow(f"invalid JSON: {error}")
    # NUL and lone surrogates reach a parsed row only through \u escapes: most lines need no walk over their strings.
    if "\\u" in line:
        return _checked(row)
    return row


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    raw = _without_bom(path.read_bytes(), path)
    try:
        content = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: invalid UTF-8 at byte {error.start} of the file") from error
    except json.JSONDecodeError as error:
        hint = "; one object a line is JSON Lines: name the file .jsonl" if error.msg == "Extra data" else ""
        raise DataError(f"{path}:{error.lineno}: invalid JSON: {error.msg} at column {error.colno}{hint}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: invalid JSON: {error}") from error
    rows = content.get("data") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise DataError(f'{path}: holds neither a list of objects nor {{"data": [...]}}, but {_kind(content)}')
    for number, row in enumerate(rows, start=1):
        yield f"{path}:{number}", _checked(row)


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    # The limit on a cell is process-wide in the csv module; it is put back when the file has been read.
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with path.open("rb") as handle:
            yield from _csv_rows(path, _csv_lines(handle, path))
    except csv.Error as error:
        raise DataError(f"{path}: invalid CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _csv_lines(lines: Iterator[bytes] | Any, path: Path) -> Iterator[str]:
    for number, raw in enumerate(lines):
        if number == 0:
            raw = _without_bom(raw, path)
        # Bytes that are not UTF-8 become lone surrogates, which `_checked` reports with their row and column.
        yield raw.decode("utf-8", errors="surrogateescape")


def _csv_rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    reader = csv.reader(lines)
    header = [name.strip() for name in next(reader, [])]
    if len(set(header)) != len(header):
        raise DataError(f"{path}:1: a column name is repeated: {', '.join(header)}")
    start = reader.line_num + 1
    for cells in reader:
        where, start = f"{path}:{start}", reader.line_num + 1
        if not any(cells):
            continue
        if len(cells) != len(header):
            yield where, _BadRow(f"{len(cells)} cells, but the header names {len(header)} columns")
            continue
        row: Any = _checked(dict(zip(header, cells, strict=True)))
        yield where, row if isinstance(row, _BadRow) else _parse_cells(row)


def _parse_cells(row: dict[str, Any]) -> Any:
    """Cells that hold JSON, parsed; empty cells of the columns that may be empty, removed."""
    for column in ("messages", "conversations", "tools"):
        cell = row.pop(column, "")
        if cell:
            try:
                row[column] = json.loads(cell)
            except (ValueError, RecursionError) as error:
                return _BadRow(f"column {column!r} is not JSON: {error}")
    # The cells were checked before JSON's escapes were undone.
    return _checked(row)


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs pyarrow; pip install 'veneer[parquet]'") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", _checked(row)
    except ValueError as error:  # pyarrow's ArrowInvalid and UnicodeDecodeError are both ValueErrors
        raise DataError(f"{path}: invalid Parquet after row {number}: {error}") from error


def _without_bom(start: bytes, path: Path) -> bytes:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is UTF-16; save it as UTF-8")
    return start.removeprefix(b"\xef\xbb\xbf")


def _checked(row: Any) -> Any:
    """The row, or a _BadRow where one of its strings holds a NUL or a lone surrogate."""
    stack = [("", row)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, str):
            found = _UNUSABLE.search(value)
            if found is not None:
                return _BadRow(_unusable(value, found.start(), path))
        elif isinstance(value, dict):
            stack.extend((f"{path}.{key}" if path else str(key), item) for key, item in value.items())
            stack.extend((path or "a key", key) for key in value)
        elif isinstance(value, list):
            stack.extend((f"{path}[{index}]", item) for index, item in enumerate(value))
    return row


def _unusable(value: str, index: int, path: str) -> str:
    code = ord(value[index])
    if code == 0:
        return f"a NUL character at character {index} of {path}; remove it"
    if 0xDC80 <= code <= 0xDCFF and path and "." not in path and "[" not in path:
        # As `_csv_lines` marks it: a byte that is not UTF-8. JSON escapes may spell the same code point.
        byte = len(value[:index].encode("utf-8", errors="surrogatepass"))
        return f"invalid UTF-8 (or a lone surrogate) at byte {byte} of {path} (0x{code - 0xDC00:02x})"
    return f"a lone surrogate (U+{code:04X}) at character {index} of {path}; it is half of a broken emoji or escape"


# ---------------------------------------------------------------- rows to records


def _record(row: Any, where: str) -> Record:
    if not isinstance(row, dict):
        raise _BadRow(f"a row must be an object, not {_kind(row)}")
    row = {key: value for key, value in row.items() if value is not None}
    tools = _tools(row.get("tools"))
    if "messages" in row:
        messages = _messages(row["messages"], "messages")
        return _conversation(where, messages, tools)
    if "conversations" in row:
        messages = _system(row) + _sharegpt(row["conversations"])
        return _conversation(where, messages, tools)
    if "prompt" in row or "completion" in row:
        return _prompt_completion(row, where, tools)
    if "instruction" in row or "output" in row:
        return _alpaca(row, where)
    if "text" in row:
        if not _string(row, "text"):
            raise _BadRow("text is empty")
        return Record(where, text=row["text"])
    keys = ", ".join(repr(str(key)) for key in row) or "none"
    raise _BadRow(f"no format is known for the keys {keys}; known: {FORMATS}")


def _conversation(
    where: str, messages: list[Message], tools: tuple[dict[str, Any], ...] | None, train_from: int = 0
) -> Record:
    if not messages:
        raise _BadRow("the conversation is empty")
    if all(message["role"] != "assistant" for message in messages[train_from:]):
        raise _BadRow("there is no assistant turn, so nothing to train")
    return Record(where, tuple(messages), tools, train_from=train_from)


def _messages(value: Any, key: str) -> list[Message]:
    if not isinstance(value, list):
        raise _BadRow(f"{key} must be a list of turns, not {_kind(value)}")
    return [_message(item, f"{key}[{index}]") for index, item in enumerate(value)]


def _message(item: Any, at: str) -> Message:
    if not isinstance(item, dict):
        raise _BadRow(f"{at} must be an object, not {_kind(item)}")
    # Parquet fills absent fields with null; templates would print it as "None".
    message = {key: value for key, value in item.items() if value is not None}
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        hint = nearest(role, ROLES) if isinstance(role, str) else ""
        raise _BadRow(f"{at} has the role {role!r}; known: {', '.join(ROLES)}{hint}")
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise _BadRow(f"{at}.tool_calls must be a list of objects, not {_kind(calls)}")
    for key in ("name", "tool_call_id", "reasoning_content"):
        if key in message:
            _string(message, key, at)
    if role == "assistant" and not message.get("content"):
        if not calls:
            raise _BadRow(f"{at} is an assistant turn without content or tool calls")
        message.setdefault("content", "")
    _string(message, "content", at)
    return message


def _sharegpt(value: Any) -> list[Message]:
    if not isinstance(value, list):
        raise _BadRow(f"conversations must be a list of turns, not {_kind(value)}")
    turns = []
    for index, item in enumerate(value):
        at = f"conversations[{index}]"
        if not isinstance(item, dict):
            raise _BadRow(f"{at} must be an object, not {_kind(item)}")
        if "from" not in item and "role" in item:
            turns.append(_message(item, at))
            continue
        speaker = item.get("from")
        role = SHAREGPT_ROLES.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            raise _BadRow(f"{at} is from {speaker!r}; known: {', '.join(SHAREGPT_ROLES)}")
        if "value" not in item:
            raise _BadRow(f"{at} has no value")
        content = _string(item, "value", at)
        if role == "assistant" and not content:
            raise _BadRow(f"{at} is an assistant turn without content")
        turns.append({"role": role, "content": content})
    return turns


def _prompt_completion(row: dict[str, Any], where: str, tools: tuple[dict[str, Any], ...] | None) -> Record:
    for key, other in (("prompt", "completion"), ("completion", "prompt")):
        if key not in row:
            raise _BadRow(f"there is {_a(other)} {other} but no {key}")
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        context = _messages(prompt, "prompt")
        return _conversation(where, context + _messages(completion, "completion"), tools, train_from=len(context))
    if not (isinstance(prompt, str) and isinstance(completion, str)):
        raise _BadRow(
            "prompt and completion must be two strings or two lists of turns, "
            f"not {_kind(prompt)} and {_kind(completion)}"
        )
    if not completion:
        raise _BadRow("completion is empty, so nothing to train")
    messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": completion})
    return Record(where, messages, tools, prompt=prompt, completion=completion)


def _alpaca(row: dict[str, Any], where: str) -> Record:
    for key, other in (("instruction", "output"), ("output", "instruction")):
        if key not in row:
            raise _BadRow(f"there is {_a(other)} {other} but no {key}")
    instruction, output = _string(row, "instruction"), _string(row, "output")
    extra = _string(row, "input") if "input" in row else ""
    if not output:
        raise _BadRow("output is empty, so nothing to train")
    system = _system(row)
    question = f"{instruction}\n\n{extra}" if extra else instruction
    messages = [*system, {"role": "user", "content": question}, {"role": "assistant", "content": output}]
    prompt = "\n\n".join([*(turn["content"] for turn in system), question])
    return Record(where, tuple(messages), prompt=prompt, completion=f"\n\n{output}")


def _system(row: dict[str, Any]) -> list[Message]:
    """The system turn of a row that keeps it apart from its turns, if it has one."""
    content = _string(row, "system") if "system" in row else ""
    return [{"role": "system", "content": content}] if content else []


def _tools(value: Any) -> tuple[dict[str, Any], ...] | None:
    if isinstance(value, str):  # ShareGPT files keep the list as a JSON string
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError) as error:
            raise _BadRow(f"tools is not JSON: {error}") from error
    if value is None:
        return None
    if not (isinstance(value, list) and all(isinstance(tool, dict) for tool in value)):
        raise _BadRow(f"tools must be a list of objects, not {_kind(value)}")
    return tuple(value) or None


def _string(row: Mapping[str, Any], key: str, at: str = "") -> str:
    name = f"{at}.{key}" if at else key
    if key not in row:
        raise _BadRow(f"{at or 'the row'} has no {key}")
    value = row[key]
    if not isinstance(value, str):
        raise _BadRow(f"{name} must be a string, not {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number"}
    return names.get(type(value), "null" if value is None else f"a {type(value).__name__}")


def _a(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
