"""Texts of strangers as they can be shown: some could clear a screen, set its title, or hide letters.

Controls of a terminal (C0 and C1 of ISO/IEC 6429) and marks that turn the direction of letters (Unicode's bidirectional
formatting) are written as escapes: `\\x1b`.
"""

from __future__ import annotations

import re

_OBEYED = re.compile("\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Controls, separators of lines and marks of direction, but for tabs and ends of lines."""
_OBEYED_IN_NAMES = re.compile(f"{_OBEYED.pattern}|[\t\r\n]")


def visible(text: str) -> str:
    """A text in which whatever is obeyed is an escape; tabs and ends of lines stay."""
    return _OBEYED.sub(_escape, text)


def visible_name(name: str) -> str:
    """A name, which has one line, in which whatever is obeyed is an escape."""
    return _OBEYED_IN_NAMES.sub(_escape, name)


def _escape(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode()
