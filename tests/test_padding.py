from __future__ import annotations

import pytest

from veneer.padding import OWN_PAD_TO_MULTIPLE_OF, PAD_TO_MULTIPLE_OF, pad_to_multiple


@pytest.mark.parametrize("multiple", [1, OWN_PAD_TO_MULTIPLE_OF, PAD_TO_MULTIPLE_OF])
def test_rows_are_padded_to_the_next_multiple_and_no_further(multiple: int) -> None:
    for rows in range(300):
        slow = next(number for number in range(rows, rows + multiple) if number % multiple == 0)
        assert pad_to_multiple(rows, multiple) == slow
    assert pad_to_multiple(65) == 2 * PAD_TO_MULTIPLE_OF
