"""Checks for numbers among JSON values. In Python true and false are numbers too; here they are not."""

from __future__ import annotations

import math
import sys
from typing import TypeGuard


def is_whole(value: object, least: float = -math.inf, most: float = math.inf) -> TypeGuard[int]:
    """Whether a value is a whole number in a range that includes its ends."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_finite(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number, and not a whole number too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
