"""The values of a column by which rows belong together, as they are compared."""

from __future__ import annotations

import math
import re
from typing import Any

_WHOLE = re.compile(r"([-+]?\d+)\.0+")


def group_of(value: Any) -> str | None:
    """A value of a column that groups rows, as a text that is equal wherever the group is; None where there is none.

    A whole number is written alike as an integer and with a fraction of zeros: tables with a gap in a column of
    integers make the others floats. An empty cell is none, as a null is: CSV has no other way to write it.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    whole = _WHOLE.fullmatch(text.strip())
    return whole[1] if whole else text if text.strip() else None
