"""Rotary positions: transformers' frequencies bit for bit, and what makes them a rotation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from helpers.models.tiny_models import BACKENDS, SHAPES, largest_difference, use_backend
from veneer.model.families.choose import spec_from_hf
from veneer.model.rope import apply_rotation, inverse_frequencies, rotation
from veneer.model.shape import RopeKind, RopeSpec

SCALINGS: list[dict[str, Any]] = [
    {"rope_type": "default", "rope_theta": 10_000.0},
    {"rope_type": "default", "rope_theta": 500_000.0},
    {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.5},
    {
        "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    },
    {
        "rope_type": "llama3", "rope_theta": 1000.0, "factor": 3.0, "low_freq_factor": 0.5, "high_freq_factor": 7.0,
        "original_max_position_embeddings": 200,
    },
]  # fmt: skip


@pytest.fixture(autouse=True, params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    use_backend(request.param, monkeypatch)
    return str(request.param)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_frequencies_equal_transformers_bit_for_bit(scaling: dict[str, Any], head_dim: int) -> None:
    config = LlamaConfig(**(SHAPES | {"head_dim": head_dim, "rope_parameters": dict(scaling)}))
    ours = inverse_frequencies(spec_from_hf(config.to_dict()).rope, head_dim)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, LlamaRotaryEmbedding(config).inv_freq)
    if scaling["rope_type"] != "default":
        assert torch.equal(ours, ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config)[0])


def test_llama3_scaling_keeps_short_waves_divides_long_ones_and_blends_between() -> None:
    plain = inverse_frequencies(RopeSpec(theta=5e5), 128)
    spec = RopeSpec(theta=5e5, kind=RopeKind.LLAMA3, factor=8.0, original_max_positions=8192)
    ratio = plain / inverse_frequencies(spec, 128)
    assert ratio[0] == 1
    assert ratio[-1] == 8
    assert bool((ratio.diff() >= 0).all())
    assert bool(((ratio > 1.01) & (ratio < 7.9)).any())


def test_factors_divide_each_frequency() -> None:
    factors = tuple(1 + randn(8, seed=3).abs().double().numpy())
    spec = RopeSpec(kind=RopeKind.FACTORS, factors=factors)
    expected = inverse_frequencies(RopeSpec(), 16) / torch.tensor(factors, dtype=torch.float32)
    assert torch.equal(inverse_frequencies(spec, 16), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_turned_heads_equal_transformers(dtype: torch.dtype) -> None:
    config = LlamaConfig(**SHAPES)
    positions = torch.tensor([0, 1, 2, 63, 200, 5, 0])
    x = randn(7, 4, 16, dtype=dtype)
    cosine, sine = LlamaRotaryEmbedding(config)(x, positions[None])
    theirs = apply_rotary_pos_emb(x[None], x[None], cosine, sine, unsqueeze_dim=2)[0][0]
    frequencies = inverse_frequencies(RopeSpec(), 16)
    ours = apply_rotation(x, *rotation(positions, frequencies))
    assert ours.dtype == dtype
    # Ours rounds once, theirs the cosine, the sine, each product and the sum.
    assert largest_difference(ours, theirs) <= float(x.abs().max()) * 2 * torch.finfo(dtype).eps


def test_a_turn_is_each_pair_times_the_rotation_matrix() -> None:
    frequencies = inverse_frequencies(RopeSpec(theta=100.0), 8).double()
    positions, x = torch.tensor([0, 3, 17]), randn(3, 2, 8, dtype=torch.float64)
    ours = apply_rotation(x, *rotation(positions, frequencies.float()))
    for token, position in enumerate(positions.tolist()):
        for pair in range(4):
            angle = position * frequencies[pair]
            turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
            expected = x[token][:, [pair, pair + 4]] @ turn.T
            assert largest_difference(ours[token][:, [pair, pair + 4]], expected) < 1e-5


def test_a_turn_keeps_lengths_and_its_transpose_undoes_it() -> None:
    x = randn(200, 3, 64, dtype=torch.float64)
    cosine, sine = rotation(torch.arange(200), inverse_frequencies(RopeSpec(), 64))
    turned = apply_rotation(x, cosine, sine)
    assert largest_difference(turned.norm(dim=-1), x.norm(dim=-1)) < 1e-6
    assert largest_difference(apply_rotation(turned, cosine, -sine), x) < 1e-6
    assert torch.equal(turned[0], x[0])


def test_scores_depend_on_the_distance_alone() -> None:
    frequencies = inverse_frequencies(RopeSpec(), 32)
    query, key = randn(1, 1, 32, seed=1, dtype=torch.float64), randn(1, 1, 32, seed=2, dtype=torch.float64)

    def score(query_at: int, key_at: int) -> float:
        turned = [
            apply_rotation(x, *rotation(torch.tensor([at]), frequencies))
            for x, at in ((query, query_at), (key, key_at))
        ]
        return float((turned[0] * turned[1]).sum())

    scores = [score(at + 5, at) for at in range(0, 100, 7)]
    assert max(scores) - min(scores) < 2e-5
    assert abs(score(9, 0) - scores[0]) > 1e-2


def test_late_positions_are_not_rounded_in_bfloat16() -> None:
    frequencies = inverse_frequencies(RopeSpec(), 16)
    late = torch.tensor([257, 1001, 4093])
    angles = (late.double()[:, None] * frequencies.double())[:, None]
    x = randn(3, 2, 16, dtype=torch.bfloat16)
    left, right = x.double().chunk(2, dim=-1)
    exact = torch.cat((left * angles.cos() - right * angles.sin(), right * angles.cos() + left * angles.sin()), dim=-1)
    ours = apply_rotation(x, *rotation(late, frequencies))
    assert bool(((ours.double() - exact).abs() <= 2**-8 * exact.abs() + 1e-3).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_backward_is_the_transpose(dtype: torch.dtype) -> None:
    cosine, sine = rotation(torch.arange(5, 12), inverse_frequencies(RopeSpec(), 32))
    x, dy = randn(7, 3, 32, dtype=dtype).requires_grad_(), randn(7, 3, 32, seed=1, dtype=dtype)
    (grad,) = torch.autograd.grad(apply_rotation(x, cosine, sine), x, dy)
    expected = apply_rotation(dy.double(), cosine, -sine)
    assert grad.dtype == dtype
    assert largest_difference(grad, expected) <= torch.finfo(dtype).eps * float(expected.abs().max())


def test_a_rotation_passes_the_gradient_check() -> None:
    cosine, sine = rotation(torch.tensor([0, 1, 9]), inverse_frequencies(RopeSpec(), 8))
    x = randn(3, 2, 8, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(apply_rotation, (x, cosine, sine))
