"""Dropout's masks, against sixteen bits of the generator for each element, taken one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from veneer.adapters.layers.dropout import Dropout

SEED = 11


def dropout(probability: float) -> Dropout:
    return Dropout(probability=probability, generator=torch.Generator().manual_seed(SEED))


def slowly(count: int, probability: float) -> list[float]:
    """What each of `count` elements is multiplied by."""
    generator = torch.Generator().manual_seed(SEED)
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator).tolist()
    dropping = min(max(round(probability * 2**16), 1), 2**16 - 1)
    found = []
    for place in range(count):
        bits = words[place // 4] % 2**64 >> 16 * (place % 4) & 0xFFFF
        draw = bits - 2**16 if bits >= 2**15 else bits
        found.append(2**16 / (2**16 - dropping) if draw >= dropping - 2**15 else 0.0)
    return found


@pytest.mark.parametrize("probability", [1e-9, 0.05, 0.1, 0.5, 0.9, 1 - 1e-9])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (7, 64), (2, 3, 4)])
def test_a_mask_is_that_of_sixteen_bits_an_element(probability: float, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    expected = torch.tensor(slowly(x.numel(), probability), dtype=torch.float64).view(shape)
    assert torch.equal(dropout(probability)(x), x * expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_mask_has_the_dtype_of_what_it_drops(dtype: torch.dtype) -> None:
    found: Tensor = dropout(0.25)(torch.ones(40, 30, dtype=dtype))
    assert found.dtype == dtype
    assert set(found.unique().tolist()) == {0.0, float(torch.tensor(2**16 / (2**16 - 2**14), dtype=dtype))}


@pytest.mark.parametrize("probability", [0.05, 0.3])
def test_as_many_are_dropped_as_are_asked_for(probability: float) -> None:
    count = 400_000
    kept = dropout(probability)(torch.ones(count, dtype=torch.float64))
    deviation = (count * probability * (1 - probability)) ** 0.5
    assert abs(int((kept == 0).sum()) - count * probability) < 5 * deviation
    assert abs(float(kept.mean()) - 1) < 5 * deviation / count / (1 - probability)


def test_neighbours_are_dropped_independently() -> None:
    dropped = (dropout(0.3)(torch.ones(400_000)) == 0).double()
    for apart in (1, 2, 3, 4, 8):
        both = float((dropped[apart:] * dropped[:-apart]).mean())
        assert abs(both - 0.09) < 5 * (0.09 * 0.91 / 400_000) ** 0.5


def test_nothing_is_drawn_where_nothing_is_dropped() -> None:
    x = torch.randn(5, 6)
    assert Dropout()(x) is x
