"""Factors reach the library only where their sizes are those of the layer that they update."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor

from veneer.native.factors import LayerFactors, Site, factor_table, fits_tiles, in_pairs, layout_of


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_factors_of_another_size_are_refused() -> None:
    sites = [Site(path="a", columns=6, depth=4)]
    good = {"down": randn(2, 4), "up": randn(2, 6), "scale": 1.0}
    factor_table({"a": LayerFactors(**good)}, sites)
    wrong = {"down": randn(3, 4)}, {"up": randn(2, 7)}, {"up": randn(2, 6).bfloat16()}, {"bias": randn(5)}
    for change in (*wrong, {"down": randn(4, 2).t()}):
        with pytest.raises(ValueError, match=r"layer \[6, 4\]"):
            factor_table({"a": LayerFactors(**good | change)}, sites)
    with pytest.raises(ValueError, match="'b'"):
        factor_table({"b": LayerFactors(**good)}, sites)


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
    factor_table({"a": LayerFactors(down=down, up=pairs, scale=1.0)}, sites)
    with pytest.raises(ValueError, match=r"layer \[6, 4\]"):
        factor_table({"a": LayerFactors(down=down, up=randn(3, 6).bfloat16(), scale=1.0)}, sites)


def test_factors_for_tiles_are_made_of_whole_ones() -> None:
    def layer(rank: int, columns: int, depth: int) -> LayerFactors:
        down = in_pairs(randn(depth, rank).bfloat16()).contiguous()
        return LayerFactors(down=down, up=in_pairs(randn(rank, columns).bfloat16()).contiguous(), scale=1.0)

    assert fits_tiles(32, 48, 96)
    assert factor_table({"a": layer(32, 48, 96)}, [Site(path="a", columns=48, depth=96)]).in_tiles
    for sizes in ((8, 48, 96), (32, 40, 96), (32, 48, 80)):
        assert not fits_tiles(*sizes)
        with pytest.raises(ValueError, match="for a layer"):
            factor_table({"a": layer(*sizes)}, [Site(path="a", columns=sizes[1], depth=sizes[2])])


def test_bytes_are_those_of_every_tensor_and_their_memory_is_kept() -> None:
    room = torch.zeros(4 * 64 + 2 * 32 * 2).bfloat16()
    narrow = LayerFactors(down=room[: 4 * 64].view(4, 64), up=room[4 * 64 :].view(2, 32, 2), scale=2.0)
    wide = LayerFactors(down=torch.zeros(8, 10), up=torch.zeros(8, 20), scale=1.0, bias=torch.zeros(20))
    sites = [Site(path="a", columns=32, depth=64), Site(path="b", columns=20, depth=10)]
    table = factor_table({"a": narrow, "b": wide}, sites)
    assert table.nbytes == 2 * 4 * 96 + 4 * (8 * 30 + 20)
    kept = [tensor.untyped_storage().data_ptr() for tensor in table.memory]
    assert sorted(kept) == sorted({one.untyped_storage().data_ptr() for one in (*narrow.tensors, *wide.tensors)})
    assert (table.structs[0].up, table.structs[1].bias) == (narrow.up.data_ptr(), wide.tensors[2].data_ptr())
    empty = factor_table({}, sites)
    assert (empty.nbytes, empty.memory, empty.structs[1].down) == (0, (), None)


def test_an_adapter_in_one_piece_of_memory_is_few_objects() -> None:
    """A full collection of Python's garbage walks over every object, and a server holds a thousand adapters."""
    sites = [Site(path=str(number), columns=32, depth=64) for number in range(200)]
    room = torch.zeros(200, 4 * 96)
    table = factor_table(
        {
            site.path: LayerFactors(down=one[: 4 * 64].view(4, 64), up=one[4 * 64 :].view(4, 32), scale=1.0)
            for site, one in zip(sites, room, strict=True)
        },
        sites,
    )
    seen, waiting = set(), [table]
    while waiting:
        found = waiting.pop()
        if id(found) not in seen and gc.is_tracked(found) and not isinstance(found, type):
            seen.add(id(found))
            waiting += gc.get_referents(found)
    assert len(seen) < 10


def test_a_layout_is_another_one_with_other_layers_sizes_or_order() -> None:
    first, second = Site(path="a", columns=6, depth=4), Site(path="b", columns=6, depth=4)
    layouts = [layout_of(sites) for sites in ([first, second], [second, first], [first], [])]
    layouts += [layout_of([Site(path="a", columns=columns, depth=depth)]) for columns, depth in ((5, 4), (6, 5))]
    assert len(set(layouts)) == len(layouts)
    assert layout_of([first, second]) == layouts[0]
