"""Text from standard input and from the command line: UTF-8, or an error that says so."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import TextIO

from veneer.data.files.json_values import half_character
from veneer.errors import DataError


def standard_input() -> TextIO:
    """Standard input; where it was closed from the start (`<&-`), which Python tells by None, nothing can be read."""
    return io.StringIO() if sys.stdin is None else sys.stdin


def text_of(read: Callable[[], str]) -> str:
    """What is read from standard input, without white space around it.

    Args:
        read: `read` or `readline` of `standard_input()`.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        text = read().strip()
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not UTF-8 text: {error}") from error
    at = half_character(text)
    if at is not None:
        raise DataError(f"standard input {not_text(text, at)}")
    return text


def not_text(text: str, at: int) -> str:
    """What is wrong with a text in which Python hands on bytes as halves of characters, and the remedy: the bytes are
    not UTF-8, or the locale's encoding is not.

    Args:
        text: what Python has made of it.
        at: the index of the first such character.
    """
    encoding = sys.getfilesystemencoding()
    try:
        text.encode(encoding, errors="surrogateescape").decode("utf-8")
    except ValueError:
        return f"is not UTF-8 text, at character {at}; give it in UTF-8"
    return (
        f"has a letter, at character {at}, that Python does not read here: it takes texts for {encoding}. Give a "
        "locale of UTF-8 (LC_ALL=C.UTF-8), or leave PYTHONUTF8=0 out"
    )
