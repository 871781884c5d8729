from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from helpers.models.tiny_models import largest_difference
from veneer.adapters.files.names import TOKEN_ROWS
from veneer.adapters.layers.embedding import LoraEmbedding, TokenEmbedding, TokenHead, TokenRows
from veneer.model.leaves import DenseLinear, Embedding
from veneer.tables import DenseTable

VOCAB, DIM, RANK = 50, 12, 3
TOKENS = torch.tensor([4, 0, 49, 4, 17])
IDS = (4, 17, 30)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def embedding() -> Embedding:
    return Embedding(nn.Parameter(randn(VOCAB, DIM), requires_grad=False))


def lora(*, magnitudes: bool = False) -> LoraEmbedding:
    a, b = randn(RANK, VOCAB, seed=1), randn(DIM, RANK, seed=2)
    return LoraEmbedding(embedding(), a, b, scale=0.5, magnitudes=magnitudes)


@pytest.mark.parametrize("magnitudes", [False, True])
def test_rows_and_gradients_are_those_of_the_merged_weight(magnitudes: bool) -> None:
    """DoRA's norm is a constant in backward (section 4.3 of the paper)."""
    one = lora(magnitudes=magnitudes)
    if one.magnitude is not None:
        one.magnitude.data *= 1 + 0.1 * randn(DIM, seed=3).abs()
    a, b = (p.detach().double().requires_grad_() for p in (one.lora_embedding_A, one.lora_embedding_B))
    weight = one.base.weight.double() + 0.5 * a.t() @ b.t()
    leaves, own = [a, b], [one.lora_embedding_A, one.lora_embedding_B]
    if one.magnitude is not None:
        m = one.magnitude.detach().double().requires_grad_()
        weight = weight * (m / weight.detach().norm(dim=0))
        leaves, own = [*leaves, m], [*own, one.magnitude]
    expected = weight[TOKENS]
    found = one(TOKENS, torch.float32)
    assert largest_difference(found, expected) < 1e-5
    grad = randn(*found.shape, seed=4)
    for mine, other in zip(
        torch.autograd.grad(found, own, grad), torch.autograd.grad(expected, leaves, grad.double()), strict=True
    ):
        assert largest_difference(mine, other) < 1e-4
    tensors = {"weight": one.base.weight.double()}
    one.merge_into(tensors)
    assert largest_difference(tensors["weight"], weight) < 1e-6


def test_sums_are_rounded_once_in_a_narrow_dtype() -> None:
    one = lora()
    exact = one(TOKENS, torch.float32)
    assert torch.equal(one(TOKENS, torch.bfloat16), exact.bfloat16())
    one.enabled = False
    assert torch.equal(one(TOKENS, torch.float32), one.base.weight[TOKENS])


def test_norms_are_measured_anew_when_a_factor_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = lora(magnitudes=True)
    calls = []
    norm = LoraEmbedding._norm
    monkeypatch.setattr(LoraEmbedding, "_norm", lambda layer: calls.append(1) or norm(layer))
    for _ in range(3):
        one(TOKENS, torch.float32)
    assert len(calls) == 1
    with torch.no_grad():
        one.lora_embedding_B.add_(1)
    changed = one(TOKENS, torch.float32)
    assert len(calls) == 2
    other = lora(magnitudes=True)
    with torch.no_grad():
        other.lora_embedding_B.add_(1)
    assert torch.equal(changed, other(TOKENS, torch.float32))


def test_norms_are_summed_in_parts_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from veneer.adapters.layers import embedding as module

    one = lora()
    whole = one._norm()
    monkeypatch.setattr(module, "NORM_ROWS", 7)
    assert largest_difference(one._norm(), whole) < 1e-6
    assert largest_difference(whole, (one.base.weight + one.delta()).norm(dim=0)) < 1e-5


def test_tensors_are_read_back_as_they_were_saved() -> None:
    one, other = lora(magnitudes=True), lora(magnitudes=True)
    for tensor in one.trained().values():
        tensor.data.add_(1)
    other.load(one.tensors())
    assert torch.equal(other(TOKENS, torch.float32), one(TOKENS, torch.float32))
    assert one.trained().keys() == one.tensors().keys()
    assert other.rank == RANK


def test_only_the_rows_of_some_tokens_are_trained() -> None:
    base = embedding()
    one = TokenEmbedding(base, TokenRows(base.table, IDS))
    assert torch.equal(one(TOKENS, torch.float32), base.weight[TOKENS])
    one.rows.values.data += randn(3, DIM, seed=5)
    weight = base.weight.clone()
    weight[list(IDS)] = one.rows.values.detach()
    assert torch.equal(one(TOKENS, torch.float32), weight[TOKENS])
    (grad,) = torch.autograd.grad(one(TOKENS, torch.float32).sum(), one.rows.values)
    assert grad[:, 0].tolist() == [2.0, 1.0, 0.0], "how often each of the tokens was read"
    one.enabled = False
    assert torch.equal(one(TOKENS, torch.float32), base.weight[TOKENS])
    tensors = {"weight": base.weight.double()}
    one.merge_into(tensors)
    assert torch.equal(tensors["weight"], weight.double())


@pytest.mark.parametrize("tied", [False, True])
def test_the_head_scores_trained_rows_and_a_tied_one_leaves_them_to_the_embedding(tied: bool) -> None:
    weight = nn.Parameter(randn(VOCAB, DIM), requires_grad=False)
    rows = TokenRows(DenseTable(weight), IDS)
    rows.values.data += randn(3, DIM, seed=5)
    head = TokenHead(DenseLinear(weight), rows, tied=tied)
    changed = weight.clone()
    changed[list(IDS)] = rows.values.detach()
    x = randn(7, DIM, seed=6)
    assert largest_difference(head(x), x @ changed.t()) < 1e-5
    assert (head.in_features, head.out_features) == (DIM, VOCAB)
    assert list(head.trained()) == list(head.tensors()) == ([] if tied else [TOKEN_ROWS])
    head.enabled = False
    assert torch.equal(head(x), DenseLinear(weight)(x))
