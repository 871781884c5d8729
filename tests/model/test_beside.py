"""Two passes side by side: what the second reads of the first is what it would have computed itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.models.tiny_models import largest_difference
from helpers.rows.preference_rows import trainable_model
from veneer.model.attention import PackedAttention
from veneer.model.beside import BehindAttention, KeepingAttention, Pass
from veneer.model.recompute import Recomputation
from veneer.model.shape import AttentionSpec

SHARED, LENGTHS, PROMPT, ANSWERS = 3, (6, 8), (5, 4), (7, 2)
"""Two texts with a common beginning; how much of each begins a text beside them, and what follows there."""
SOURCES = torch.tensor([*range(5), *range(17, 24), *range(3), 9, *range(24, 26)])
OWN = torch.tensor([*range(5, 12), 16, 17])
WHOLE = (12, 6)


@pytest.mark.parametrize("spec", [AttentionSpec(), AttentionSpec(window=3), AttentionSpec(softcap=2.0)])
def test_queries_see_the_keys_of_both_passes_as_in_one_text(spec: AttentionSpec) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = (
        torch.randn(26, heads, 16, generator=generator, dtype=torch.float64) for heads in (4, 2, 2)
    )
    sinks = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
    first = KeepingAttention(PackedAttention(LENGTHS, SHARED))
    behind = BehindAttention(PackedAttention(WHOLE), first, SOURCES, OWN)
    first.attend(0, queries[:17], keys[:17], values[:17], spec, sinks)
    found = behind.attend(0, queries[17:], keys[17:], values[17:], spec, sinks)
    whole = PackedAttention(WHOLE).attend(0, queries[SOURCES], keys[SOURCES], values[SOURCES], spec, sinks)
    assert largest_difference(found, whole[OWN]) < 1e-12
    assert behind.text_lengths().tolist() == [12] * 7 + [6] * 2


@pytest.mark.parametrize("recomputed", [False, True])
def test_both_passes_are_those_of_the_texts_alone(recomputed: bool, tiny_model: Path) -> None:
    """And the first one's gradients are as if there were no other."""
    model, generator = trainable_model(tiny_model), torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 200, (26,), generator=generator)
    positions = torch.tensor([*range(3), *range(3, 9), *range(3, 11), *range(5, 12), *range(4, 6)])
    model.recompute(Recomputation() if recomputed else None)

    def gradients(hidden: torch.Tensor) -> list[torch.Tensor]:
        model.zero_grad()
        hidden.square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    alone = model.documents(tokens[:17], positions[:17], LENGTHS, SHARED)
    expected = gradients(alone)
    kept = KeepingAttention(PackedAttention(LENGTHS, SHARED))
    behind = BehindAttention(PackedAttention(WHOLE), kept, SOURCES, OWN)
    hidden, other = model.side_by_side(
        Pass(tokens[:17], positions[:17], kept), Pass(tokens[17:], positions[17:], behind)
    )
    assert torch.equal(hidden, alone)
    assert not other.requires_grad
    texts = model.documents(tokens[SOURCES], positions[SOURCES], WHOLE).detach()
    assert largest_difference(other, texts[OWN]) < 1e-5
    assert all(torch.equal(one, two) for one, two in zip(gradients(hidden), expected, strict=True))
