"""Fields of a request's JSON: honoured, allowed only at their neutral value, or ignored and named.

A field that would change the answer and is not honoured is refused unless its value changes nothing. An unknown field
is ignored, and the answer's header `x-veneer-ignored-fields` names it: clients send fields of other servers as a matter
of course.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from veneer.data.files.json_values import kind
from veneer.http_server.errors import ApiError
from veneer.text.json_numbers import is_whole

IGNORED_HEADER = "x-veneer-ignored-fields"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
MOST_FIELDS = 1000
"""The most fields of an object, because each unknown one is examined."""
MOST_NAMED_FIELDS = 20
"""The most ignored fields that are named; a client could send any number."""


class Fields:
    """A JSON object whose fields are read one by one; null counts as absent.

    Args:
        values: the object.
        path: the place of the object in the request, for messages.

    Raises:
        ApiError: 400, it has far more fields than exist.
    """

    def __init__(self, values: Mapping[str, Any], path: str = ""):
        self._values, self._path = values, path
        self._read: set[str] = set()
        self._sections: dict[str, Fields] = {}
        if len(values) > MOST_FIELDS:
            at = f"{path}: " if path else ""
            raise ApiError(400, f"{at}{len(values):,} fields; at most {MOST_FIELDS:,} are accepted", param=path or None)

    def value(self, name: str) -> Any:
        """The value of a field, unchecked, or None."""
        self._read.add(name)
        return self._values.get(name)

    def wrong(self, name: str, message: str) -> ApiError:
        """The error that says what is wrong with a field."""
        path = self.path(name)
        return ApiError(400, f"{path}: {message}", param=path, code="invalid_value")

    def path(self, name: str) -> str:
        """The place of a field in the request."""
        return f"{self._path}.{name}" if self._path else name

    def text(self, name: str) -> str | None:
        """A string."""
        value = self.value(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, f"must be a string, not {kind(value)}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean."""
        value = self.value(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, f"must be true or false, not {kind(value)}")
        return value

    def integer(self, name: str, least: int, most: int) -> int | None:
        """A whole number between two others."""
        value = self.value(name)
        if value is None:
            return None
        if not is_whole(value):
            raise self.wrong(name, f"must be a whole number, not {kind(value)}")
        if not least <= value <= most:
            raise self.wrong(name, f"{shown(value)}, must be between {least:,} and {most:,}")
        return value

    def number(self, name: str, least: float, most: float, default: float) -> float:
        """A finite number between two others."""
        value = self.value(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, f"must be a number, not {kind(value)}")
        if not least <= value <= most or not math.isfinite(value):
            raise self.wrong(name, f"{shown(value)}, must be between {least:g} and {most:g}")
        return float(value)

    def section(self, name: str) -> Fields | None:
        """An object."""
        value = self.value(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(name, f"must be an object, not {kind(value)}")
        return self._sections.setdefault(name, Fields(value, self.path(name)))

    def items(self, name: str) -> list[Any] | None:
        """A list."""
        value = self.value(name)
        if value is not None and not isinstance(value, list):
            raise self.wrong(name, f"must be a list, not {kind(value)}")
        return value

    def neutral(self, name: str, *values: object) -> None:
        """Refuse a field that is not honoured, unless its value is null or one of these, which change nothing."""
        value = self.value(name)
        if value is not None and not any(value == one and type(value) is type(one) for one in values):
            allowed = ", ".join(
                ["null", *(repr(one).lower() if isinstance(one, bool) else repr(one) for one in values)]
            )
            raise ApiError(
                400,
                f"{self.path(name)} is not supported by this server; leave it out, or give one of: {allowed}",
                param=self.path(name),
                code="unsupported_parameter",
            )

    def ignored(self) -> tuple[str, ...]:
        """Paths of the fields that nobody has read and that are not null, in order; those of sections come last."""
        own = [name for name, value in self._values.items() if name not in self._read and value is not None]
        inner = [path for section in self._sections.values() for path in section.ignored()]
        return (*map(self.path, own), *inner)


def ignored_header(names: Iterable[str]) -> dict[str, str]:
    """The header that names ignored fields. Names that are not plain words, and those beyond
    `MOST_NAMED_FIELDS`, are only counted."""
    all_names = list(names)
    named = [name for name in all_names if _NAME.fullmatch(name)][:MOST_NAMED_FIELDS]
    if len(named) < len(all_names):
        named.append(f"and {len(all_names) - len(named)} more")
    return {IGNORED_HEADER: ", ".join(named)} if named else {}


def shown(value: float) -> str:
    """A number for a message: as it was given, if that is short."""
    try:
        text = str(value)
    except ValueError:  # Python writes no integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 24 else f"{text[:20]}…"
