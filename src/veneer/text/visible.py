"""Makes untrusted text safe to show: it could clear a screen, set its title, or hide letters.

Controls of a terminal (C0 and C1 of ISO/IEC 6429) and marks that turn the direction of letters (Unicode's bidirectional
formatting) are written as escapes: `\\x1b`.
"""

from __future__ import annotations

import re

_OBEYED = re.compile("\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters, line separators and marks of direction, except tabs and line ends."""
_OBEYED_IN_NAMES = re.compile(f"{_OBEYED.pattern}|[\t\r\n]")


def visible(text: str) -> str:
    """Text in which control characters and marks of direction are escapes; tabs and line ends stay."""
    return _OBEYED.sub(_escape, text)


def visible_name(name: str) -> str:
    """A name, in which line ends, control characters and marks of direction are escapes."""
    return _OBEYED_IN_NAMES.sub(_escape, name)


def _escape(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode()
