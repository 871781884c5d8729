from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.models.tiny_models import largest_difference
from veneer.model.attention import PackedAttention
from veneer.model.blocks import BlockAttention
from veneer.model.shape import PLAIN_ATTENTION, AttentionSpec
from veneer.native.library import kernels


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


@pytest.mark.skipif(kernels() is None, reason="the compiled kernels are not built")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_kernel_makes_the_bits_of_each_block_alone_and_keeps_their_output_once(dtype: torch.dtype) -> None:
    """What the layer behind it reads is what backward needs, where the outputs of blocks that are joined are both."""
    layouts = [PackedAttention([4, 1]), PackedAttention([5, 40], 3), PackedAttention([6])]
    leaves = [random_heads(59, heads, seed).to(dtype).requires_grad_() for heads, seed in ((4, 0), (2, 1), (2, 2))]
    sinks, weights = torch.tensor([0.5, -1.0, 2.0, 0.0]), random_heads(59, 4, 3).to(dtype)
    kept: set[int] = set()

    def note(x: Tensor) -> Tensor:
        kept.add(x.untyped_storage().data_ptr())
        return x

    for spec, extra in ((AttentionSpec(), None), (AttentionSpec(window=7, softcap=20.0), sinks)):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            found = BlockAttention(layouts, [5, 48, 6]).attend(0, *leaves, spec, extra)
        assert found.untyped_storage().data_ptr() in kept
        gradients = torch.autograd.grad((found * weights).sum(), leaves)
        start = 0
        for layout, count in zip(layouts, [5, 48, 6], strict=True):
            own = slice(start, start + count)
            parts = [leaf.detach()[own].requires_grad_() for leaf in leaves]
            alone = layout.attend(0, *parts, spec, extra)
            assert torch.equal(found[own], alone)
            expected = torch.autograd.grad((alone * weights[own]).sum(), parts)
            for gradient, other in zip(gradients, expected, strict=True):
                assert torch.equal(gradient[own], other)
            start += count


@pytest.mark.skipif(kernels() is None, reason="the compiled kernels are not built")
def test_blocks_of_other_lengths_do_not_reach_the_kernel() -> None:
    blocks = BlockAttention([PackedAttention([4]), PackedAttention([6])], [4, 5])
    queries, keys, values = (random_heads(9, 2, seed).float() for seed in (3, 4, 5))
    with pytest.raises(ValueError, match="documents of 10 tokens in all, but queries"):
        blocks.attend(0, queries, keys, values, PLAIN_ATTENTION, None)


def test_tokens_of_one_block_do_not_reach_another() -> None:
    blocks = BlockAttention([PackedAttention([4]), PackedAttention([5])], [4, 5])
    queries, keys, values = (random_heads(9, 2, seed) for seed in (3, 4, 5))
    before = blocks.attend(0, queries, keys, values, PLAIN_ATTENTION, None)
    values[:4] += 10
    keys[:4] *= -3
    assert torch.equal(blocks.attend(0, queries, keys, values, PLAIN_ATTENTION, None)[4:], before[4:])


def test_lengths_of_texts_are_those_of_all_blocks_in_order() -> None:
    blocks = BlockAttention([PackedAttention([2, 1]), PackedAttention([3], 2)], [3, 5])
    expected = torch.cat((PackedAttention([2, 1]).text_lengths(), PackedAttention([3], 2).text_lengths()))
    assert torch.equal(blocks.text_lengths(), expected)
    assert len(expected) == 8
