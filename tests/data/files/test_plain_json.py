from __future__ import annotations

import json
import math
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from veneer.data.files.plain_json import NOT_JSON_KEY, as_json


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": [1, 2.5, None, True, "b"]}, {"a": [1, 2.5, None, True, "b"]}),
        ((date(2024, 5, 1), Decimal("1.10")), ["2024-05-01", "1.10"]),
        ([np.int64(3), np.float32(0.5), np.longdouble(0.5), np.bool_(True)], [3, 0.5, 0.5, True]),
        (np.array([{"role": "user"}, 2], dtype=object), [{"role": "user"}, 2]),
        (np.datetime64("2024-05-01"), "2024-05-01"),
        (
            [math.nan, np.float64("inf"), np.float32("nan")],
            [{NOT_JSON_KEY: "nan"}, {NOT_JSON_KEY: "inf"}, {NOT_JSON_KEY: "nan"}],
        ),
        ([b"a", {1}, 1j], [{NOT_JSON_KEY: "bytes"}, {NOT_JSON_KEY: "set"}, {NOT_JSON_KEY: "complex"}]),
    ],
)
def test_values_are_what_json_has_a_form_for(value: Any, written: Any) -> None:
    found = as_json(value)
    assert found == written
    assert json.loads(json.dumps(found, allow_nan=False)) == written
