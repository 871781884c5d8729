"""Find the place of each field of a row in the tokenised text, and so the field that a token comes from.

A template may trim a content, write it as JSON, or remove its thoughts. Fields are searched for in the order of the
conversation, each after the one before. An assistant's content is searched for inside the span that trains it, so that
a short answer ("yes") is not found in the question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from veneer.data.encoded.chat import Trace
from veneer.data.forms.formats import format_of
from veneer.data.forms.record import Record
from veneer.data.forms.turns import REASONING_KEYS
from veneer.data.templates.turn_shape import Span

_THOUGHTS = re.compile(r"^\s*(?:<think>)?(.*?)</think>(.*)$", re.DOTALL)
"""A thought and what follows. If the generation prompt begins the thought, rows may contain only its end."""


class FieldKind(Enum):
    """The kind of a field of a row."""

    CONTENT = "content"
    THOUGHT = "thought"
    TOOL = "tool"
    CALL = "call"
    """A tool call: its name and its arguments."""


@dataclass(frozen=True, slots=True)
class FieldSource:
    """One string of a row that the model should read or write."""

    path: str
    """The place in the row, such as `messages[1].content`."""
    text: str
    kind: FieldKind
    turn: int | None
    """The index of the message in the record; None for plain text and descriptions of tools."""
    role: str
    more: tuple[str, ...] = ()
    """Further strings that belong to it and follow the text, in any order: the arguments of a call."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A source with the place where it was found."""

    source: FieldSource
    start: int
    """The first character in the trace's text; -1 if it was not found."""
    end: int

    @property
    def found(self) -> bool:
        """Whether the text contains the source."""
        return self.start >= 0


def place(raw: Any, record: Record, trace: Trace) -> list[Placed]:
    """Every source of a row with its place, in the order of the conversation."""
    spans = trained_spans(record, trace)
    placed: list[Placed] = []
    cursor = 0
    for source in sources(raw, record):
        window = spans.get(source.turn) if source.turn is not None else None
        if window is not None and cursor < window[0]:
            cursor = window[0]
        found = _find(trace.text, source.text, cursor, window[1] if window else len(trace.text))
        if found is None and source.kind is FieldKind.CONTENT and (parted := _THOUGHTS.match(source.text)):
            for part, kind in ((parted.group(1), FieldKind.THOUGHT), (parted.group(2), FieldKind.CONTENT)):
                if part.strip():
                    piece = FieldSource(source.path, part.strip(), kind, source.turn, source.role)
                    placed.append(_placed(piece, trace.text, cursor))
                    cursor = max(cursor, placed[-1].end)
            continue
        one = _placed(source, trace.text, cursor) if found is None else Placed(source, *found)
        placed.append(_with_more(one, trace.text, window[1] if window else len(trace.text)))
        cursor = max(cursor, placed[-1].end)
    return placed


def _with_more(placed: Placed, text: str, end: int) -> Placed:
    """A source, extended up to the last string that belongs to it. Strings that a template leaves out are skipped."""
    last = placed.end
    if placed.found:
        for piece in placed.source.more:
            found = _find(text, piece, last, end) or _find(text, piece, placed.end, last)
            last = last if found is None else max(last, found[1])
    return replace(placed, end=last)


def _placed(source: FieldSource, text: str, cursor: int) -> Placed:
    """A source after the cursor or, if a template has changed the order, anywhere."""
    found = _find(text, source.text, cursor, len(text)) or _find(text, source.text, 0, len(text))
    return Placed(source, -1, -1) if found is None else Placed(source, *found)


def _find(text: str, wanted: str, start: int, end: int) -> tuple[int, int] | None:
    for form in _forms(wanted):
        at = text.find(form, start, end)
        if at >= 0:
            return at, at + len(form)
    return None


def _forms(wanted: str) -> Iterator[str]:
    """The forms in which a template may write a string without losing any of it, the likeliest first."""
    yield wanted
    stripped = wanted.strip()
    yield stripped
    for plain in (False, True):
        yield json.dumps(stripped, ensure_ascii=plain)[1:-1]
    yield stripped.replace("\r\n", "\n")
    yield stripped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def trained_spans(record: Record, trace: Trace) -> dict[int, Span]:
    """The range of the trace's text that trains each trained turn; none if the turns cannot be told apart."""
    turns = record.trained_turns
    return dict(zip(turns, trace.spans, strict=True)) if len(turns) == len(trace.spans) else {}


def sources(raw: Any, record: Record) -> Iterator[FieldSource]:
    """The strings of a row that the model should read or write, in the order of the conversation."""
    if record.text is not None:
        yield FieldSource("text", record.text, FieldKind.CONTENT, None, "text")
        return
    given = {key: value for key, value in raw.items() if value is not None} if isinstance(raw, dict) else {}
    declared = "functions" if "functions" in given and "tools" not in given else "tools"
    for index, tool in enumerate(record.tools or ()):
        function = tool.get("function", tool)
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(name, str) and name:
            yield FieldSource(f"{declared}[{index}]", name, FieldKind.TOOL, None, "tools")
    if format_of(given) == "instruction":
        yield from _alpaca(given, record)
        return
    for index, message in enumerate(record.messages):
        yield from _message(_path(given, record, index), index, message)


def _message(path: str, turn: int, message: Mapping[str, Any]) -> Iterator[FieldSource]:
    role = message["role"]
    for key in REASONING_KEYS:
        thought = message.get(key)
        if isinstance(thought, str) and thought.strip():
            yield FieldSource(f"{path}.{key}", thought, FieldKind.THOUGHT, turn, role)
            break
    content = message.get("content")
    if isinstance(content, str) and content.strip():
        within = "" if path in ("prompt", "completion", "system") else ".value" if path[:4] == "conv" else ".content"
        yield FieldSource(f"{path}{within}", content, FieldKind.CONTENT, turn, role)
    yield from _calls(path, turn, message)


def arguments_of(function: Mapping[str, Any]) -> Any:
    """The arguments of a tool call as the row has them: mostly an object, or JSON text."""
    return function.get("arguments", function.get("parameters", {}))


def leaves(value: Any) -> Iterator[Any]:
    """Every key, and every value that contains no others, in a JSON value."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def _calls(path: str, turn: int, message: Mapping[str, Any]) -> Iterator[FieldSource]:
    for number, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function", call)
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name:
            continue
        given = arguments_of(function)
        if isinstance(given, str):
            given = parsed(given)
        texts = tuple(leaf if isinstance(leaf, str) else json.dumps(leaf) for leaf in leaves(given))
        yield FieldSource(f"{path}.tool_calls[{number}]", name, FieldKind.CALL, turn, message["role"], texts)


def parsed(text: str) -> Any:
    """The JSON value of a text; None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _alpaca(raw: Mapping[str, Any], record: Record) -> Iterator[FieldSource]:
    shift = len(record.messages) - 2
    for key, turn, role in (
        ("system", 0, "system"), ("instruction", shift, "user"), ("input", shift, "user"),
        ("output", shift + 1, "assistant"),
    ):  # fmt: skip
        text = raw.get(key)
        if isinstance(text, str) and text.strip():
            yield FieldSource(key, text, FieldKind.CONTENT, turn, role)


def _path(given: Mapping[str, Any], record: Record, index: int) -> str:
    """The path, in a row without nulls, of the record's message with this index."""
    match format_of(given):
        case "conversations":
            shift = len(record.messages) - len(given["conversations"])
            return f"conversations[{index - shift}]" if index >= shift else "system"
        case "prompt" if isinstance(given.get("prompt"), list):
            split = len(given["prompt"])
            return f"prompt[{index}]" if index < split else f"completion[{index - split}]"
        case "prompt":
            return "prompt" if index == 0 else "completion"
        case _:
            return f"messages[{index}]"
