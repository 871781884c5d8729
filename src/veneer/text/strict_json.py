"""The only writer of JSON. JSON has no NaN and no infinity, and most readers refuse a document that contains them.

A number that is not finite is an error (`to_text`), or null with a reason (`with_reasons`) if it is a real result, such
as the loss of a run that diverged. A model's own files, which may contain such numbers, are written as other programs
read them (`tagged`, `only_finite`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from veneer.errors import OutputError, listing

FLOAT_TAG = "__float__"
"""The key under which transformers 5 names a number that JSON has no form for."""
NOT_FINITE = "not_finite"
"""The key under which `with_reasons` says which values are null and what they were."""


def to_text(
    value: Any,
    *,
    indent: int | None = None,
    ensure_ascii: bool = True,
    sort_keys: bool = False,
    separators: tuple[str, str] | None = None,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """A value as JSON; the arguments are those of `json.dumps`.

    Raises:
        OutputError: a number is NaN or infinite; the message names every such place.
    """
    try:
        return json.dumps(
            value,
            allow_nan=False,
            indent=indent,
            ensure_ascii=ensure_ascii,
            sort_keys=sort_keys,
            separators=separators,
            default=default,
        )
    except ValueError as error:
        broken = [f"{place}: {number}" for place, number in _not_finite(value, "")]
        if not broken:
            raise
        raise OutputError(f"JSON cannot represent NaN and infinity, which are at:\n{listing(broken)}") from error


def tagged(value: Any) -> Any:
    """Plain values in which every NaN or infinity has the form that transformers 5 writes into a config.json:
    `{"__float__": "Infinity"}`."""
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT_TAG: "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, Mapping):
        return {key: tagged(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [tagged(item) for item in value]
    return value


def only_finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values without those that are, or contain, NaN or infinity."""
    return {key: value for key, value in values.items() if not any(_not_finite(value, key))}


def with_reasons(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values with null for every number that is NaN or infinite.

    The original numbers are under the key `not_finite`, by their places: `{"loss": None, "not_finite": {"loss":
    "nan"}}`. The key is missing if all numbers are finite.
    """
    reasons = {place: str(number) for place, number in _not_finite(values, "")}
    return dict(values) if not reasons else {**_nulled(values), NOT_FINITE: reasons}


def restored(values: Mapping[str, Any]) -> dict[str, Any]:
    """The original values of `with_reasons`, with NaN and infinity in their places."""
    reasons = values.get(NOT_FINITE)
    if not isinstance(reasons, Mapping):
        return dict(values)
    found: dict[str, Any] = _restored({key: value for key, value in values.items() if key != NOT_FINITE}, "", reasons)
    return found


def _not_finite(value: Any, place: str) -> Iterator[tuple[str, float]]:
    """Each number in plain values that is NaN or infinite, and its place in the form `a.b[0]`."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _not_finite(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _not_finite(item, f"{place}[{index}]")


def _nulled(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _nulled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nulled(item) for item in value]
    return value


def _restored(value: Any, place: str, reasons: Mapping[str, Any]) -> Any:
    if value is None and place in reasons:
        return float(reasons[place])
    if isinstance(value, Mapping):
        return {key: _restored(item, f"{place}.{key}" if place else str(key), reasons) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_restored(item, f"{place}[{index}]", reasons) for index, item in enumerate(value)]
    return value
