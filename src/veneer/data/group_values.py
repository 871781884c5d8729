"""The values of a column by which rows belong together, in the form in which they are compared."""

from __future__ import annotations

import math
import re
from typing import Any

_WHOLE = re.compile(r"([-+]?\d+)\.0+")


def group_of(value: Any) -> str | None:
    """A value of a column that groups rows, as a text that is equal for equal groups; None if there is none.

    A whole number has the same form as an integer and with a fraction of zeros: in tables, a gap in a column of
    integers makes the others floats. An empty cell counts as none, like a null: CSV has no other way to write it.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    whole = _WHOLE.fullmatch(text.strip())
    return whole[1] if whole else text if text.strip() else None
