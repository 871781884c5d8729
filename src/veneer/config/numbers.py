"""The types of numbers and names in settings, each with its bounds."""

from __future__ import annotations

import re
from datetime import date, datetime
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from veneer.config.values import home_replaced, seconds_of

_ISO_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _no_truth(value: Any) -> Any:
    # Python and pydantic treat true as 1; in a configuration it is a mistake.
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


NUMBER = BeforeValidator(_no_truth)


def _no_bytes(value: Any) -> Any:
    # pydantic accepts bytes as text.
    if isinstance(value, bytes | bytearray):
        raise ValueError("must be text, not bytes")
    return value


def _written_out(value: Any) -> Any:
    return str(value) if isinstance(value, PurePath) else value


def _day(value: Any) -> Any:
    # pydantic treats numbers as seconds since 1970, and a time at midnight as a date.
    if isinstance(value, str) and _ISO_DAY.fullmatch(value):
        return value
    if not isinstance(value, date) or isinstance(value, datetime):
        raise ValueError("must be a date, such as 2026-12-31")
    return value


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("must be a power of two: 1, 2, 4, 8 and so on")
    return value


Fraction = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False), NUMBER]
Count = Annotated[int, Field(ge=1, le=1_000_000_000), NUMBER]
Rank = Annotated[int, Field(ge=1, le=65_536), NUMBER]
"""The largest is beyond the sides of nearly all matrices; much larger ones would use up all memory before any error
message."""
Steps = Annotated[int, Field(ge=1, le=100_000_000), NUMBER]
StepRows = Annotated[int, Field(ge=1, le=1_000_000), NUMBER]
Threads = Annotated[int, Field(ge=1, le=1_024), NUMBER]
"""torch ends the process if the system gives it no more threads."""
Rate = Annotated[float, Field(gt=0.0, allow_inf_nan=False), NUMBER]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False), NUMBER]
Name = Annotated[str, Field(min_length=1), BeforeValidator(_no_bytes)]
Place = Annotated[str, Field(min_length=1), BeforeValidator(_no_bytes), BeforeValidator(_written_out)]
"""The name of a file, a folder or a model; Python may pass it as a path."""
Folder = Annotated[Place, AfterValidator(home_replaced)]
"""The name of a folder, in which `~` is replaced."""
Duration = Annotated[float, Field(gt=0.0, le=1e8, allow_inf_nan=False), BeforeValidator(seconds_of), NUMBER]
Day = Annotated[date, BeforeValidator(_day)]
"""A date, `2026-12-31`: YAML reads these characters as a date, JSON as text."""
Lanes = Annotated[int, Field(ge=1, le=4096), AfterValidator(_power_of_two), NUMBER]
