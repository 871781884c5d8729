"""Weighted sources, against a plain count of what an epoch holds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veneer.data.micro_batches import mixture as mixture_module
from veneer.data.micro_batches.batches import Steps
from veneer.data.micro_batches.mixture import RowMixture, WeightedRows
from veneer.data.micro_batches.orders import order

SOURCES = st.lists(st.tuples(st.integers(0, 30), st.floats(0.01, 4.0)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(SOURCES, st.integers(0, 3))
def test_an_epoch_holds_the_weight_of_each_source(given_: list[tuple[int, float]], seed: int) -> None:
    sources = [WeightedRows(rows, weight) for rows, weight in given_]
    if not sum(source.rows for source in sources):
        return
    mixture = RowMixture(sources)
    first = 0
    for source in sources:
        own = range(first, first + source.rows)
        first += source.rows
        if not source.rows:
            continue
        expected = max(1, round(source.weight * source.rows))
        seen: Counter[int] = Counter()
        for epoch in range(3):
            held = Counter(row for row in mixture.rows(epoch, seed).tolist() if row in own)
            assert held.total() == expected
            assert {held[row] for row in own} <= {expected // source.rows, -(-expected // source.rows)}
            seen += held
            # Whoever comes more often is made up for in later epochs: nobody falls behind by more than one.
            assert max(seen[row] for row in own) - min(seen[row] for row in own) <= 1


def laid_out(sources: list[WeightedRows], epoch: int, seed: int) -> list[int]:
    """The rows of an epoch in the order of the sources, each source written down as its rule says."""
    found: list[int] = []
    first = 0
    for number, source in enumerate(sources):
        own = list(range(first, first + source.rows))
        first += source.rows
        if own:
            whole, more = divmod(source.in_epoch, source.rows)
            turns = order(source.rows, seed=seed, epoch=2**31 + 1 + number).tolist()
            found += own * whole + [own[turns[(epoch * more + place) % source.rows]] for place in range(more)]
    return found


@settings(max_examples=30, deadline=None)
@given(SOURCES, st.integers(0, 3), st.integers(0, 5))
def test_rows_at_places_are_those_of_the_epoch_laid_out(given_: list[tuple[int, float]], seed: int, epoch: int) -> None:
    sources = [WeightedRows(rows, weight) for rows, weight in given_]
    expected = laid_out(sources, epoch, seed)
    if not expected:
        return
    mixture = RowMixture(sources)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture_module, "NUMBERS_AT_ONCE", 7)
        assert mixture.rows(epoch, seed).tolist() == expected
        places = np.random.default_rng(seed).permutation(len(expected))
        assert mixture.at(places, epoch, seed).tolist() == [expected[place] for place in places.tolist()]


def test_weights_of_one_are_the_plain_order() -> None:
    plain = Steps([5] * 30, seed=3, examples_per_step=4)
    mixed = Steps([5] * 30, seed=3, examples_per_step=4, mixture=RowMixture([WeightedRows(10), WeightedRows(20)]))
    assert [mixed.examples(step).tolist() for step in range(16)] == [
        plain.examples(step).tolist() for step in range(16)
    ]


def test_steps_of_a_mixture_go_through_its_epochs() -> None:
    mixture = RowMixture([WeightedRows(10, 2.5), WeightedRows(7, 0.5)])
    for sizes in ({"examples_per_step": 4}, {"tokens_per_step": 23}):
        steps = Steps([5] * 17, seed=1, mixture=mixture, **sizes)
        for epoch in range(3):
            numbers = [n for n in range(steps.total(3)) if steps.epoch_of(n) == epoch]
            rows = np.concatenate([steps.examples(number) for number in numbers])
            assert sorted(rows.tolist()) == sorted(mixture.rows(epoch, 1).tolist())
            assert rows.tolist() != mixture.rows(epoch, 1).tolist()
