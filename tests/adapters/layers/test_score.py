"""The score head is a product with one vector, drawn as transformers draws it, and never narrower than float32."""

from __future__ import annotations

import torch

from veneer.adapters.layers.score import INITIAL_DEVIATION, ScoreHead


def test_a_score_is_a_product_in_float32_or_wider() -> None:
    head = ScoreHead(torch.tensor([[1.0, -2.0, 0.5]]))
    hidden = torch.tensor([[1.0, 1.0, 1.0], [0.0, 3.0, 2.0]])
    assert torch.equal(head(hidden), torch.tensor([-0.5, -5.0]))
    assert head(hidden.bfloat16()).dtype == torch.float32
    assert head(hidden.double()).dtype == torch.float64


def test_a_new_head_follows_from_its_seed() -> None:
    one, other = (ScoreHead.drawn(4096, torch.Generator().manual_seed(5), torch.device("cpu")) for _ in range(2))
    assert torch.equal(one.weight, other.weight)
    assert abs(float(one.weight.detach().std()) - INITIAL_DEVIATION) < 0.002
