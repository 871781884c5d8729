"""Text from standard input and from the command line: UTF-8, or an error that says so."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import TextIO

from veneer.data.files.json_values import half_character
from veneer.errors import DataError


def standard_input() -> TextIO:
    """Standard input. If it was closed from the start (`<&-`), Python has None instead, and nothing can be read."""
    return io.StringIO() if sys.stdin is None else sys.stdin


def text_of(read: Callable[[], str]) -> str:
    """The text of standard input, without white space around it.

    Args:
        read: `read` or `readline` of `standard_input()`.

    Raises:
        DataError: the input is not UTF-8.
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
    """The error, and the remedy, for text in which Python passes bytes on as halves of characters (surrogates): either
    the bytes or the locale's encoding are not UTF-8.

    Args:
        text: the text as Python decoded it.
        at: the index of the first such character.
    """
    encoding = sys.getfilesystemencoding()
    try:
        text.encode(encoding, errors="surrogateescape").decode("utf-8")
    except ValueError:
        return f"is not UTF-8 text, at character {at}; give it in UTF-8"
    return (
        f"has a letter, at character {at}, that Python cannot read here, because it decodes text as {encoding}. Set "
        "a UTF-8 locale (LC_ALL=C.UTF-8), or remove PYTHONUTF8=0"
    )
