from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veneer.data.micro_batches import orders
from veneer.data.micro_batches.orders import order


def test_order_is_this_permutation_forever() -> None:
    assert order(10, seed=0, epoch=0).tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
    assert order(0, seed=0, epoch=0).tolist() == []


@pytest.mark.scenario(number=5)
def test_order_depends_on_seed_and_epoch_only() -> None:
    assert sorted(order(1000, seed=1, epoch=2).tolist()) == list(range(1000))
    assert order(1000, seed=1, epoch=2).tolist() == order(1000, seed=1, epoch=2).tolist()
    others = {tuple(order(1000, seed=seed, epoch=epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(others) == 9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 200), st.integers(1, 70), st.integers(0, 9), st.integers(0, 3))
def test_an_order_in_parts_is_the_order_at_once(count: int, at_once: int, seed: int, epoch: int) -> None:
    whole = order(count, seed=seed, epoch=epoch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orders, "NUMBERS_AT_ONCE", at_once)
        parts = order(count, seed=seed, epoch=epoch)
    assert parts.tolist() == whole.tolist()
    assert parts.dtype == (np.uint32 if count > at_once else np.int64)
