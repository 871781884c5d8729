from __future__ import annotations

import torch
from torch import Tensor

from tiny_models import largest_difference
from veneer.model.attention import PackedAttention
from veneer.model.blocks import BlockAttention
from veneer.model.shape import AttentionSpec


def random_heads(tokens: int, heads: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, heads, 16, generator=generator, dtype=torch.float64)


def test_each_block_attends_as_it_would_alone() -> None:
    """One block has documents with a common beginning of three tokens, and two have none."""
    layouts = [PackedAttention([4, 1]), PackedAttention([5, 2], 3), PackedAttention([6])]
    counts = [5, 10, 6]
    queries, keys, values = random_heads(21, 4, 0), random_heads(21, 2, 1), random_heads(21, 2, 2)
    sinks = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
    blocks = BlockAttention(layouts, counts)
    for spec, extra in ((AttentionSpec(), None), (AttentionSpec(window=3), None), (AttentionSpec(scale=0.7), sinks)):
        found = blocks.attend(0, queries, keys, values, spec, extra)
        start = 0
        for layout, count in zip(layouts, counts, strict=True):
            own = slice(start, start + count)
            alone = layout.attend(0, queries[own], keys[own], values[own], spec, extra)
            assert largest_difference(found[own], alone) < 1e-12
            start += count


def test_tokens_of_one_block_do_not_reach_another() -> None:
    blocks = BlockAttention([PackedAttention([4]), PackedAttention([5])], [4, 5])
    queries, keys, values = (random_heads(9, 2, seed) for seed in (3, 4, 5))
    before = blocks.attend(0, queries, keys, values)
    values[:4] += 10
    keys[:4] *= -3
    assert torch.equal(blocks.attend(0, queries, keys, values)[4:], before[4:])


def test_lengths_of_texts_are_those_of_all_blocks_in_order() -> None:
    blocks = BlockAttention([PackedAttention([2, 1]), PackedAttention([3], 2)], [3, 5])
    expected = torch.cat((PackedAttention([2, 1]).text_lengths(), PackedAttention([3], 2).text_lengths()))
    assert torch.equal(blocks.text_lengths(), expected)
    assert len(expected) == 8
