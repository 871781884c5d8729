from __future__ import annotations

import numpy as np
import pytest

from veneer.data.lint.spill import Spill


def test_every_list_is_read_back_whatever_was_appended_between() -> None:
    rng = np.random.default_rng(3)
    kept: list[list[int]] = []
    with Spill() as spill:
        for _ in range(5):
            lists = [rng.integers(0, 2**32, size=int(rng.integers(0, 6)), dtype=np.uint32) for _ in range(7)]
            spill.append(np.concatenate(lists), np.array([len(one) for one in lists], dtype=np.int64))
            kept += [one.tolist() for one in lists]
            for row in rng.permutation(len(kept)).tolist():
                assert spill.read(row).tolist() == kept[row]


def test_the_file_goes_with_it() -> None:
    with Spill() as spill:
        spill.append(np.ones(2, dtype=np.uint32), np.array([2], dtype=np.int64))
    with pytest.raises(ValueError, match="closed file"):
        spill.read(0)
