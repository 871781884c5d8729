from __future__ import annotations

from typing import Any

import pytest

from veneer.data.group_values import group_of


@pytest.mark.parametrize(
    ("value", "group"),
    [
        (101, "101"),
        (101.0, "101"),
        ("101", "101"),
        ("101.0", "101"),
        ("-3.00", "-3"),
        (1.5, "1.5"),
        ("1.5.0", "1.5.0"),
        ("007", "007"),
        ("A 1", "A 1"),
        (True, "True"),
    ],
)
def test_a_group_is_written_alike_in_every_file(value: Any, group: str) -> None:
    assert group_of(value) == group


@pytest.mark.parametrize("value", [None, "", "  ", float("nan")])
def test_a_row_without_a_value_is_of_no_group(value: Any) -> None:
    assert group_of(value) is None
