"""Marks are a mask in an eighth of its memory."""

from __future__ import annotations

import numpy as np
import pytest

from veneer.data.encoded import marks
from veneer.data.encoded.marks import Marks


@pytest.mark.parametrize("seed", range(20))
def test_marks_say_what_a_mask_says(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "GROUP_NUMBERS", 16)
    source = np.random.default_rng(seed)
    mask = source.random(int(source.integers(1, 200))) < source.random()
    found, start = Marks(len(mask)), 0
    while start < len(mask):
        end = start + int(source.integers(1, 30))
        found.put(start, mask[start:end])
        start = end
    assert len(found) == len(mask)
    for _ in range(10):
        first, last = sorted(source.integers(0, len(mask) + 1, 2).tolist())
        assert found.get(first, last).tolist() == mask[first:last].tolist()
    numbers = np.flatnonzero(mask).tolist()
    assert [found.nth(place) for place in range(len(numbers))] == numbers
    for place in (-1, len(numbers)):
        with pytest.raises(IndexError):
            found.nth(place)
    assert [Marks.of(mask).nth(place) for place in range(len(numbers))] == numbers
