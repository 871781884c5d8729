from __future__ import annotations

import numpy as np
import pytest

from veneer.html.histograms import histograms


def test_columns_are_counted_over_common_bins() -> None:
    short, long = [0, 1, 4, 5], [9, 10, 10]
    made = histograms({"short": short, "none": [], "long": np.array(long)}, bins=5)
    assert [one["name"] for one in made] == ["short", "long"]
    assert [one["edges"] for one in made] == [[0, 2, 4, 6, 8, 10]] * 2
    assert [one["counts"] for one in made] == [[2, 0, 2, 0, 0], [0, 0, 0, 0, 3]]


@pytest.mark.parametrize("seed", range(3))
def test_every_value_counts_once_however_far_out_it_is(seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 500, size=1000)
    values[:2] = 1_000_000
    (made,) = histograms({"values": values}, bins=40)
    assert sum(made["counts"]) == len(values)
    assert made["edges"][-1] == int(np.quantile(values, 0.995)) < 500


def test_there_are_no_more_bins_than_numbers() -> None:
    (made,) = histograms({"values": [0, 1, 3]}, bins=40)
    assert len(made["counts"]) == made["edges"][-1] == 2


def test_nothing_is_drawn_of_nothing() -> None:
    assert histograms({}, bins=5) == histograms({"a": []}, bins=5) == histograms({"a": [0, 0], "b": []}, bins=5) == []
