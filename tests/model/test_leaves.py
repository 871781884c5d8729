from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers.models.random_weights import RandomWeights
from helpers.models.tiny_models import largest_difference
from veneer.model.leaves import DenseLinear, Embedding, NormModule, make_norm
from veneer.model.shape import Norm
from veneer.products import LowRank

EPS = 1e-3


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def formula(kind: Norm, x: Tensor, norm: NormModule, bias: Tensor | None) -> Tensor:
    if kind in (Norm.LAYER, Norm.LAYER_BIAS):
        centred = x - x.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt()
        return normed * norm.weight + (0 if bias is None else bias)
    weight = norm.weight + (1 if kind is Norm.RMS_AROUND_ONE else 0)
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight


@pytest.mark.parametrize(
    ("kind", "shape"),
    # No family has a plain RMS norm with a weight for each head.
    [*((kind, (12,)) for kind in Norm), *((kind, (3, 4)) for kind in Norm if kind is not Norm.RMS)],
)
def test_every_kind_of_norm_is_its_formula(kind: Norm, shape: tuple[int, ...]) -> None:
    weights = RandomWeights()
    norm = make_norm(kind, weights, "a.norm", shape, EPS)
    assert weights.asked == (["a.norm.weight", "a.norm.bias"] if kind is Norm.LAYER_BIAS else ["a.norm.weight"])
    x, delta = randn(5, *shape, seed=1), randn(5, *shape, seed=2)
    bias = dict(norm.named_parameters()).get("bias")
    assert (bias is not None) is (kind is Norm.LAYER_BIAS)
    assert largest_difference(norm(x), formula(kind, x, norm, bias)) < 1e-12
    total, normed = norm.after_adding(x, delta)
    assert torch.equal(total, x + delta)
    assert largest_difference(normed, formula(kind, total, norm, bias)) < 1e-12


@pytest.mark.parametrize("kind", Norm)
def test_a_norm_with_other_parameters_is_of_the_same_kind(kind: Norm) -> None:
    one = make_norm(kind, RandomWeights(1), "a.norm", (12,), EPS)
    other = make_norm(kind, RandomWeights(2), "a.norm", (12,), EPS)
    found = one.of(other.weight, dict(other.named_parameters()).get("bias"))
    x = randn(4, 12)
    assert torch.equal(found(x), other(x))
    assert not torch.equal(found(x), one(x))


def test_heads_are_normalised_each_by_itself() -> None:
    norm = make_norm(Norm.RMS, RandomWeights(), "a.norm", (8,), EPS)
    x = randn(3, 4, 8)
    assert largest_difference(norm(x), torch.stack([norm(head) for head in x.unbind(1)], 1)) < 1e-12


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trainable", [False, True])
def test_a_linear_layer_and_its_gradients_are_torchs(trainable: bool, bias: bool) -> None:
    made = RandomWeights(trainable=trainable).linear("a", 6, 9, bias=bias)
    assert isinstance(made, DenseLinear)
    assert (made.in_features, made.out_features) == (6, 9)
    x, grad = randn(7, 6).requires_grad_(), randn(7, 9, seed=3)
    expected = functional.linear(x, made.weight, made.bias)
    leaves = [x, *made.parameters()] if trainable else [x]
    for found, wanted in zip(
        torch.autograd.grad(made(x), leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True
    ):
        assert largest_difference(found, wanted) < 1e-12
    assert largest_difference(made(x), expected) < 1e-12
    assert made.dequantize(torch.float32).dtype == torch.float32
    assert made.dequantize(torch.float64).data_ptr() == made.weight.data_ptr()


def test_products_with_an_update_are_those_of_the_merged_weight() -> None:
    made = RandomWeights().linear("a", 6, 9, bias=True)
    assert isinstance(made, DenseLinear)
    a, b, x, grad = randn(2, 6, seed=4), randn(9, 2, seed=5), randn(7, 6, seed=6), randn(7, 9, seed=7)
    merged = made.weight + 1.5 * b @ a
    found = made.product(x, LowRank(x @ a.t(), b, 1.5))
    assert largest_difference(found, functional.linear(x, merged, made.bias)) < 1e-12
    assert largest_difference(made.input_gradient(grad, LowRank(grad @ b, a, 1.5)), grad @ merged) < 1e-12


def test_an_embedding_gives_the_rows_of_its_tokens_in_the_dtype_that_is_asked_for() -> None:
    embedding = Embedding(nn.Parameter(randn(10, 4)))
    tokens = torch.tensor([3, 3, 9, 0])
    assert torch.equal(embedding(tokens, torch.float64), embedding.weight[tokens])
    assert torch.equal(embedding(tokens, torch.bfloat16), embedding.weight[tokens].bfloat16())
