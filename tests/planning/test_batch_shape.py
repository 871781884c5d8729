"""Rows of one length fill micro-batches as a plain list of them does."""

from __future__ import annotations

import pytest

from veneer.planning.batch_shape import BatchShape

LENGTH, ROWS = 10, 7


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("tokens", [1, 20, 39, 40, 1000])
def test_micro_batches_hold_as_many_rows_as_fit(tokens: int, together: int) -> None:
    rows = [[LENGTH] * together] * ROWS
    size = max(1, tokens // sum(rows[0]))
    batches = [rows[start : start + size] for start in range(0, ROWS, size)]
    found = BatchShape.of_rows(LENGTH, tokens, ROWS, 0.5, together=together)
    assert found.micro_batches == len(batches)
    assert found.documents == together * len(batches[0])
    assert found.tokens == sum(map(sum, batches[0])) == 2 * found.supervised
    assert found.step_tokens == sum(map(sum, rows)) == 2 * found.step_supervised
    assert found.step_squares == sum(length**2 for row in rows for length in row)
    assert found.blocks == (len(batches[0]) if together > 1 else 1)


def test_one_longer_row_is_a_micro_batch_of_its_own() -> None:
    found = BatchShape.of_rows(LENGTH, 20, ROWS, longest=35)
    assert (found.tokens, found.longest) == (35, 35)
