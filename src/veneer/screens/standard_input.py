"""Text from standard input: UTF-8, or an error that says so."""

from __future__ import annotations

from collections.abc import Callable

from veneer.data.json_values import half_character
from veneer.errors import DataError


def text_of(read: Callable[[], str]) -> str:
    """What is read from standard input, without white space around it.

    Args:
        read: `sys.stdin.read` or `sys.stdin.readline`.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        text = read().strip()
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not UTF-8 text: {error}") from error
    at = half_character(text)
    if at is not None:
        # Python hands on bytes that are not UTF-8 as halves of characters where the locale is C.
        raise DataError(f"standard input is not UTF-8 text, at character {at}; give it in UTF-8")
    return text
