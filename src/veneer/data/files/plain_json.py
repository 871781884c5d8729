"""Values of Python libraries in the form of JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np

NOT_JSON_KEY = "not in JSON"
"""The key of the object that replaces a value that JSON cannot express."""


def as_json(value: Any) -> Any:
    """A value of a row in the form of JSON. Dates and exact numbers become text; numpy's numbers and arrays become
    Python's. A value that JSON cannot express (bytes, a picture, NaN) becomes an object that says so. In an unused
    column this does no harm, and code that needs a text or a number refuses an object."""
    match value:
        case None | str() | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
        case Mapping():
            return {key: as_json(item) for key, item in value.items()}
        case list() | tuple():
            return [as_json(item) for item in value]
        case date() | time() | timedelta() | Decimal() | UUID() | np.datetime64() | np.timedelta64():
            return str(value)
        case np.bool_():
            return bool(value)
        case np.integer():
            return int(value)
        case np.floating():
            return as_json(float(value))
        case np.ndarray():
            return as_json(value.tolist())
        case float():
            return {NOT_JSON_KEY: str(value)}
        case _:
            return {NOT_JSON_KEY: type(value).__name__}
