"""Whole numbers that clients send: in the JSON of a body, and as text in an address."""

from __future__ import annotations

from starlette.requests import Request

from veneer.http_server.errors import ApiError
from veneer.text.json_numbers import is_whole


def whole(value: object, name: str, least: int, most: int) -> int:
    """A value of JSON that must be a whole number in a range.

    Args:
        value: the value; None is refused.
        name: the name of the field, for the error.
        least, most: the ends of the range, both included.

    Raises:
        ApiError: 400 if the value is not such a number.
    """
    if not is_whole(value, least, most):
        raise ApiError(400, f"{name} must be a whole number from {least:,} to {most:,}", param=name)
    return value


def whole_in_query(request: Request, name: str, default: int, least: int, most: int) -> int:
    """The whole number that an address gives for a field, or the default. Raises ApiError as `whole` does."""
    return whole(number_of(request.query_params.get(name, str(default))), name, least, most)


def number_of(text: str) -> int | None:
    """The whole number in text from a client, which may have thousands of digits. None if it is not a usable number."""
    return int(text) if text.isdecimal() and len(text) < 19 else None
