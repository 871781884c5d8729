from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.models.tiny_models import largest_difference
from veneer.model import windowed as module
from veneer.model.shape import AttentionSpec
from veneer.model.windowed import attention_by_document, softcapped, softmax_beside

SPECS = {
    "plain": AttentionSpec(),
    "window": AttentionSpec(window=5),
    "window of one": AttentionSpec(window=1),
    "cap": AttentionSpec(scale=0.9, softcap=1.5),
    "both": AttentionSpec(scale=0.3, window=9, softcap=2.0),
}
LAYOUTS = [([7], 0), ([1, 13, 4], 0), ([6, 9, 1, 5], 6), ([3, 20], 3)]
HEADS, KV_HEADS, DIM = 4, 2, 8


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of four rows, so that documents have several."""
    monkeypatch.setattr(module, "BLOCK_ROWS", 4)


def inputs(tokens: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(tokens, HEADS, DIM), (tokens, KV_HEADS, DIM), (tokens, KV_HEADS, DIM), (HEADS,)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def one_by_one(x: list[Tensor], lengths: list[int], shared: int, spec: AttentionSpec, *, sinks: bool) -> Tensor:
    """Each token and head by itself: scores of all keys that it sees, in the order of its text."""
    queries, keys, values, sink = x
    rows, start = [], 0
    for number, length in enumerate(lengths):
        front = list(range(shared)) if shared and number else []
        for at in range(length):
            seen = [*front, *range(start, start + at + 1)]
            if spec.window is not None:
                seen = seen[-spec.window :]
            heads = []
            for head in range(HEADS):
                kv = head // (HEADS // KV_HEADS)
                scores = keys[seen, kv] @ queries[start + at, head] * spec.of(DIM)
                if spec.softcap is not None:
                    scores = spec.softcap * torch.tanh(scores / spec.softcap)
                weights = torch.exp(scores)
                total = weights.sum() + (torch.exp(sink[head]) if sinks else 0)
                heads.append(weights @ values[seen, kv] / total)
            rows.append(torch.stack(heads))
        start += length
    return torch.stack(rows)


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize(("lengths", "shared"), LAYOUTS)
@pytest.mark.parametrize("name", SPECS)
def test_outputs_and_gradients_are_those_of_each_token_by_itself(
    name: str, lengths: list[int], shared: int, sinks: bool
) -> None:
    x = inputs(sum(lengths), seed=sum(lengths))
    found = attention_by_document(*x[:3], lengths, shared, SPECS[name], x[3] if sinks else None)
    expected = one_by_one(x, lengths, shared, SPECS[name], sinks=sinks)
    assert largest_difference(found, expected) < 1e-12
    grad = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaves = x if sinks else x[:3]
    for one, other in zip(
        torch.autograd.grad(found, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True
    ):
        assert largest_difference(one, other) < 1e-11


def test_only_queries_keys_and_values_are_kept_for_backward() -> None:
    queries, keys, values, _ = inputs(40, seed=9)
    kept: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        attention_by_document(queries, keys, values, [40], 0, SPECS["both"])
    assert {tensor.data_ptr() for tensor in kept} == {tensor.data_ptr() for tensor in (queries, keys, values)}


def test_sums_over_blocks_do_not_lose_what_is_small() -> None:
    """The gradient of a key that 64 blocks see, in bfloat16: rounded once, not once a block."""
    x = [tensor.detach().bfloat16().requires_grad_() for tensor in inputs(256, seed=3)[:3]]
    wide = [tensor.detach().double().requires_grad_() for tensor in x]
    narrow = torch.autograd.grad(attention_by_document(*x, [256], 0, SPECS["cap"]).float().sum(), x)
    exact = torch.autograd.grad(attention_by_document(*wide, [256], 0, SPECS["cap"]).sum(), wide)
    # The values of the first keys get a share from every row, of one sign: an error of 2⁻⁸ a block would add up.
    assert float(((narrow[2].double() - exact[2]) / exact[2])[:4].abs().max()) < 0.02


def test_a_soft_cap_bounds_scores_and_keeps_small_ones() -> None:
    scores = torch.tensor([-1e9, -0.01, 0.0, 0.01, 1e9], dtype=torch.float64)
    assert softcapped(scores, None) is scores
    capped = softcapped(scores, 5.0)
    assert capped[[0, 4]].tolist() == [-5.0, 5.0]
    assert largest_difference(capped[1:4], scores[1:4]) < 1e-6


def test_a_sink_takes_its_share() -> None:
    scores = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sinks = torch.tensor([1.5, -0.5, 3.0], dtype=torch.float64).view(3, 1, 1)
    found = softmax_beside(scores, sinks)
    exps = scores.exp()
    assert largest_difference(found, exps / (exps.sum(-1, keepdim=True) + sinks.exp())) < 1e-14
    assert torch.equal(softmax_beside(scores, None), scores.softmax(-1))
