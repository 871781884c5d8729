from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veneer.data.micro_batches import batches
from veneer.data.micro_batches.batches import Steps, deal
from veneer.data.micro_batches.mixture import RowMixture, WeightedRows
from veneer.data.micro_batches.orders import order
from veneer.errors import DataError


def test_steps_of_a_number_of_examples() -> None:
    steps = Steps([5] * 10, seed=3, examples_per_step=4)
    assert (steps.in_epoch(0), steps.total(3)) == (3, 9)
    assert [len(steps.examples(step)) for step in range(6)] == [4, 4, 2, 4, 4, 2]
    first = np.concatenate([steps.examples(step) for step in range(3)])
    assert first.tolist() == order(10, seed=3, epoch=0).tolist()
    assert (
        np.concatenate([steps.examples(step) for step in range(3, 6)]).tolist() == order(10, seed=3, epoch=1).tolist()
    )
    assert [steps.epoch_of(step) for step in (0, 2, 3, 8)] == [0, 0, 1, 2]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 60), st.integers(0, 5))
def test_steps_of_a_token_budget(lengths: list[int], budget: int, seed: int) -> None:
    steps = Steps(lengths, seed=seed, tokens_per_step=budget)
    total = steps.total(3)
    cut = [steps.examples(step).tolist() for step in range(total)]
    epochs = [[i for step in range(total) if steps.epoch_of(step) == epoch for i in cut[step]] for epoch in range(3)]
    assert epochs == [order(len(lengths), seed=seed, epoch=epoch).tolist() for epoch in range(3)]
    for step, members in enumerate(cut):
        size = sum(lengths[i] for i in members)
        assert size <= budget or len(members) == 1
        following = cut[step + 1] if step + 1 < total and steps.epoch_of(step + 1) == steps.epoch_of(step) else None
        assert following is None or size + lengths[following[0]] > budget  # as full as the order allows
    # Random access: any step, asked of a fresh object, is the same.
    for step in (total - 1, 0, total // 2):
        assert Steps(lengths, seed=seed, tokens_per_step=budget).examples(step).tolist() == cut[step]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 60), st.integers(1, 20))
def test_a_token_budget_counted_in_windows_is_the_same(lengths: list[int], budget: int, window: int) -> None:
    def cut() -> list[list[int]]:
        steps = Steps(lengths, seed=1, tokens_per_step=budget)
        return [steps.examples(step).tolist() for step in range(steps.total(2))]

    whole = cut()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "NUMBERS_AT_ONCE", window)
        assert cut() == whole


def test_steps_refuse_what_makes_no_sense() -> None:
    for sizes in ({}, {"examples_per_step": 1, "tokens_per_step": 1}, {"examples_per_step": 0}):
        with pytest.raises(DataError, match="one of the two"):
            Steps([1], seed=0, **sizes)
    with pytest.raises(DataError, match="no examples"):
        Steps([], seed=0, examples_per_step=1)
    with pytest.raises(IndexError):
        Steps([1], seed=0, examples_per_step=1).examples(-1)


def test_examples_are_dealt_out_to_lanes_of_about_equal_length() -> None:
    source = random.Random(7)
    for lanes in (1, 2, 4, 8):
        for count in (1, 3, 8, 40):
            lengths = [source.randint(1, 500) for _ in range(count)]
            dealt = deal(lengths, lanes)
            assert len(dealt) == lanes
            assert sorted(index for lane in dealt for index in lane) == list(range(count))
            assert all(lane == sorted(lane) for lane in dealt)
            tokens = [sum(lengths[index] for index in lane) for lane in dealt]
            # The last row of the fullest lane went to the one that had least then.
            assert max(tokens) <= sum(lengths) / lanes + max(lengths)
            assert deal(lengths, lanes) == dealt
    assert deal([5, 5, 5], 1) == [[0, 1, 2]]


def test_an_epoch_that_is_too_long_for_its_order_is_refused() -> None:
    mixture = RowMixture([WeightedRows(10_000, 1e6)])
    with pytest.raises(DataError, match=r"an epoch of data.sources has 10,000,000,000 rows"):
        Steps([7] * 10_000, seed=0, examples_per_step=4, mixture=mixture)
