"""Factors reach the library only where their sizes are those of the layer that they update."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from veneer.native.factors import LayerFactors, Site, StepFactors, fits_tiles, in_pairs


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_factors_of_another_size_are_refused() -> None:
    sites = [Site(path="a", columns=6, depth=4)]
    good = {"down": randn(2, 4), "up": randn(2, 6), "scale": 1.0}
    StepFactors(layers={"a": LayerFactors(**good)}).table(sites)
    wrong = {"down": randn(3, 4)}, {"up": randn(2, 7)}, {"up": randn(2, 6).bfloat16()}, {"bias": randn(5)}
    for change in (*wrong, {"down": randn(4, 2).t()}):
        with pytest.raises(ValueError, match=r"layer \[6, 4\]"):
            StepFactors(layers={"a": LayerFactors(**good | change)}).table(sites)
    with pytest.raises(ValueError, match="'b'"):
        StepFactors(layers={"b": LayerFactors(**good)}).table(sites)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_a_word_holds_a_weight_of_an_even_rank_and_one_of_the_next(rank: int) -> None:
    up = randn(rank, 3)
    pairs = in_pairs(up)
    assert pairs.shape == (-(-rank // 2), 3, 2)
    for r in range(rank):
        assert torch.equal(pairs[r // 2, :, r % 2], up[r])
    assert rank % 2 == 0 or torch.equal(pairs[-1, :, 1], torch.zeros(3))


def test_factors_in_bfloat16_have_their_ranks_in_pairs() -> None:
    sites, down = [Site(path="a", columns=6, depth=4)], randn(3, 4).bfloat16()
    pairs = in_pairs(randn(3, 6).bfloat16()).contiguous()
    StepFactors(layers={"a": LayerFactors(down=down, up=pairs, scale=1.0)}).table(sites)
    with pytest.raises(ValueError, match=r"layer \[6, 4\]"):
        StepFactors(layers={"a": LayerFactors(down=down, up=randn(3, 6).bfloat16(), scale=1.0)}).table(sites)


def test_factors_for_tiles_are_made_of_whole_ones() -> None:
    def layer(rank: int, columns: int, depth: int) -> LayerFactors:
        down = in_pairs(randn(depth, rank).bfloat16()).contiguous()
        return LayerFactors(down=down, up=in_pairs(randn(rank, columns).bfloat16()).contiguous(), scale=1.0)

    assert fits_tiles(32, 48, 96)
    factors = StepFactors(layers={"a": layer(32, 48, 96)})
    assert factors.in_tiles
    factors.table([Site(path="a", columns=48, depth=96)])
    for sizes in ((8, 48, 96), (32, 40, 96), (32, 48, 80)):
        assert not fits_tiles(*sizes)
        with pytest.raises(ValueError, match="for a layer"):
            StepFactors(layers={"a": layer(*sizes)}).table([Site(path="a", columns=sizes[1], depth=sizes[2])])


def test_bytes_are_those_of_every_tensor() -> None:
    narrow = LayerFactors(down=torch.zeros(4, 64).bfloat16(), up=torch.zeros(2, 32, 2).bfloat16(), scale=2.0)
    wide = LayerFactors(down=torch.zeros(8, 10), up=torch.zeros(8, 20), scale=1.0, bias=torch.zeros(20))
    assert StepFactors(layers={"a": narrow, "b": wide}).nbytes == 2 * 4 * 96 + 4 * (8 * 30 + 20)
    assert StepFactors(layers={}).nbytes == 0
