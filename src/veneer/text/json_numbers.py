"""Numbers among values of JSON, where Python takes true and false for numbers too."""

from __future__ import annotations

import math
import sys
from typing import TypeGuard


def is_whole(value: object, least: float = -math.inf, most: float = math.inf) -> TypeGuard[int]:
    """Whether a value is a whole number in a range, whose ends are in it."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_finite(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number, and no whole one that is beyond all floats."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
