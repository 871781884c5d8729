"""What 4 bits leave of an update, against a slow reference."""

from __future__ import annotations

import pytest
import torch

from veneer.config import QuantSection
from veneer.exports.measure import measure_survival
from veneer.quant.four_bit import QuantLinear


def round_trip(weight: torch.Tensor) -> torch.Tensor:
    return QuantLinear.from_weight(weight).dequantize(torch.float32)


def pairs(size: float, *, on_grid: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two layers with an update of rank 4 whose norm is `size` times the weight's."""
    torch.manual_seed(0)
    found = []
    for shape in ((256, 128), (128, 192)):
        weight = torch.randn(shape) * 0.02
        weight = round_trip(weight) if on_grid else weight
        update = torch.randn(shape[0], 4) @ torch.randn(4, shape[1])
        found.append((weight, weight + update * (size * weight.norm() / update.norm())))
    return found


@pytest.mark.parametrize("on_grid", [True, False])
@pytest.mark.parametrize("size", [0.003, 0.03, 0.3])
def test_the_shares_are_those_of_the_definition(size: float, on_grid: bool) -> None:
    layers = pairs(size, on_grid=on_grid)
    delta = torch.cat([(after - before).flatten() for before, after in layers]).double()
    change = torch.cat([(round_trip(after) - round_trip(before)).flatten() for before, after in layers]).double()
    weight = torch.cat([before.flatten() for before, _ in layers]).double()
    found = measure_survival(iter(layers), QuantSection())
    assert found.update == pytest.approx(float(delta.norm() / weight.norm()), rel=1e-9)
    assert found.change == pytest.approx(float(change.norm() / delta.norm()), rel=1e-9)
    assert found.share == pytest.approx(float(change @ delta / (delta @ delta)), rel=1e-9)


def test_a_small_update_of_decoded_weights_is_lost_and_a_large_one_is_not() -> None:
    small, large = (measure_survival(pairs(size, on_grid=True), QuantSection()) for size in (0.003, 0.3))
    assert small.share < 0.1
    assert large.share == pytest.approx(1.0, abs=0.05)


def test_without_an_update_nothing_is_lost() -> None:
    weight = torch.randn(64, 64)
    found = measure_survival([(weight, weight)], QuantSection())
    assert (found.update, found.change, found.share) == (0.0, 1.0, 1.0)
