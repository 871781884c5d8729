"""Reads fields of requests: in the JSON of a body, in a form, and in an address."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from starlette.requests import Request

from veneer.http_server.errors import ApiError
from veneer.text.json_numbers import is_whole


def refuse_unknown(values: Iterable[str], known: Collection[str], of: str, param: str | None = None) -> None:
    """Refuse fields that are not known, since they would be ignored.

    Args:
        values: the fields that a client gives.
        known: the possible fields.
        of: the object that has the fields, for the error.
        param: the field that the error names as its cause; None for the first unknown one.

    Raises:
        ApiError: 400 if there are unknown fields.
    """
    unknown = sorted(str(name)[:40] for name in values if name not in known)
    if unknown:
        message = f"the fields of {of} are {', '.join(known)}; got {', '.join(unknown[:8])}"
        raise ApiError(400, message, param=param or unknown[0])


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


def optional_whole(values: Mapping[str, object], name: str, least: int, most: int) -> int | None:
    """The whole number in a field; None if the field is missing or null. Raises ApiError as `whole` does."""
    return None if values.get(name) is None else whole(values[name], name, least, most)


def whole_in_query(request: Request, name: str, default: int, least: int, most: int) -> int:
    """The whole number that an address gives for a field, or the default. Raises ApiError as `whole` does."""
    return whole(number_of(request.query_params.get(name, str(default))), name, least, most)


def number_of(text: str) -> int | None:
    """The whole number in text from a client, which may have thousands of digits. None if it is not a usable number."""
    return int(text) if text.isdecimal() and len(text) < 19 else None
