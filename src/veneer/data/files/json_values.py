"""Checks of JSON values from data files: characters that text may not contain, and nesting that no row needs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from reprlib import repr as short
from typing import Any

MAX_DEPTH = 100
"""The limit on nested lists and objects. Code that walks a row later does so recursively."""

_UNUSABLE = re.compile("[\x00\ud800-\udfff]")


class BadRow(Exception):
    """The reason why one row cannot be used; caught where rows are collected."""


def parse_json(text: str) -> Any:
    """Parse JSON that is inside a row.

    Raises:
        BadRow: the text is not JSON, is nested too deeply, or contains a NUL or a lone surrogate.
    """
    return _parse(text, json.loads)


def parse_json_at(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at a position of a text, and the position where it ends; any text may follow.

    Raises:
        BadRow: see `parse_json`.
    """
    end = start

    def decode(part: str) -> Any:
        nonlocal end
        value, length = _decode_beginning(part)
        end += length
        return value

    return _parse(text[start:], decode), end


def parse_row(text: str) -> Any:
    """Parse JSON that is a row.

    Raises:
        BadRow: see `parse_json`; or a key is twice in an object, where parsers silently take the last one.
    """
    return _parse(text, decode_row)


def parsed_row(text: str) -> Any:
    """The row in a text, or the BadRow that says why there is none (`parse_row`)."""
    try:
        return parse_row(text)
    except BadRow as problem:
        return problem


def checked_row(row: Any) -> Any:
    """The row, or the BadRow that says why it cannot be used (`check_value`)."""
    try:
        check_value(row)
    except BadRow as problem:
        return problem
    return row


def only_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these keys and values.

    Raises:
        BadRow: a key occurs twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise BadRow(f"the key {key!r} is twice in an object, with {short(seen[key])} and {short(value)}")
            seen[key] = value
    return found


_decode_beginning = json.JSONDecoder().raw_decode

decode_row: Callable[[str], Any] = json.JSONDecoder(object_pairs_hook=only_once).decode
"""Decodes JSON like `json.loads`, and raises BadRow for a key that is twice in an object."""


def _parse(text: str, decode: Callable[[str], Any]) -> Any:
    try:
        value = decode(text)
    except json.JSONDecodeError as error:
        # A raw NUL is typical of a file that a crash has truncated; JSON's own message would not say so.
        nul = text.find("\x00")
        if nul >= 0:
            raise BadRow(f"a NUL character at column {nul + 1}; remove it") from error
        # The position may be after the end of the line: text that ends early ends there.
        there = json.JSONDecodeError(error.msg, text.rstrip(), min(error.pos, len(text.rstrip())))
        raise BadRow(f"invalid JSON: {error.msg.removesuffix(' at')} at column {there.colno}") from error
    except RecursionError as error:
        raise BadRow(_too_deep()) from error
    except ValueError as error:
        raise BadRow(f"invalid JSON: {error}") from error
    # NUL and lone surrogates reach a parsed value only through \u escapes, and its depth is at most the number of its
    # brackets: most values need no walk.
    if "\\u" in text or text.count("[") + text.count("{") > MAX_DEPTH:
        check_value(value)
    return value


def check_value(value: Any) -> None:
    """Check every string and the depth of a row.

    Raises:
        BadRow: a string or key contains a NUL or a lone surrogate, or the nesting is too deep.
    """
    if _usable(value):
        return
    # Only a bad row is searched again for the place: naming the place of each of millions of values takes too long.
    stack = [("", value, 0)]
    while stack:
        path, item, depth = stack.pop()
        if isinstance(item, str):
            found = _UNUSABLE.search(item)
            if found is not None:
                raise BadRow(unusable(item, found.start(), path))
        elif isinstance(item, (dict, list)):
            if depth == MAX_DEPTH:
                raise BadRow(_too_deep())
            if isinstance(item, dict):
                stack.extend((f"{path}.{key}" if path else str(key), inner, depth + 1) for key, inner in item.items())
                stack.extend((path or "a key", key, depth + 1) for key in item)
            else:
                stack.extend((f"{path}[{index}]", inner, depth + 1) for index, inner in enumerate(item))


def _usable(value: Any) -> bool:
    """Whether every string of a row is allowed, and its depth is within the limit."""
    level, depth = [value], 0
    while level:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, str):
                if _UNUSABLE.search(item) is not None:
                    return False
            elif isinstance(item, (dict, list)):
                if depth == MAX_DEPTH:
                    return False
                inner.extend(item)
                if isinstance(item, dict):
                    inner.extend(item.values())
        level, depth = inner, depth + 1
    return True


def unusable_at(text: str) -> int | None:
    """The index of the first NUL or lone surrogate of a text, or None."""
    found = _UNUSABLE.search(text)
    return None if found is None else found.start()


def half_character(text: str) -> int | None:
    """The index of the first lone surrogate of a text, or None. It comes from half of an emoji, or from a byte of the
    command line or of standard input that is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def unusable(text: str, index: int, path: str) -> str:
    """The error message about the character at `index`."""
    code = ord(text[index])
    if code == 0:
        return f"a NUL character at character {index} of {path}; remove it"
    if 0xDC80 <= code <= 0xDCFF and path and "." not in path and "[" not in path:
        # The CSV reader marks a byte that is not UTF-8 in this way. A JSON escape may produce the same code point.
        byte = len(text[:index].encode("utf-8", errors="surrogatepass"))
        return (
            f"invalid UTF-8 (or a lone surrogate) at byte {byte} of {path} (0x{code - 0xDC00:02x}); "
            "save the file as UTF-8"
        )
    return f"a lone surrogate (U+{code:04X}) at character {index} of {path}; it is half of a broken emoji or escape"


def _too_deep() -> str:
    return f"nested more than {MAX_DEPTH} levels deep; a row needs far fewer"


def kind(value: Any) -> str:
    """The name of a value's type, as in error messages."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number"}
    return names.get(type(value), "null" if value is None else f"a {type(value).__name__}")
