from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from helpers.models.random_weights import RandomWeights
from helpers.models.tiny_models import SHAPES, largest_difference
from veneer.model.attention import PackedAttention
from veneer.model.experts import Mixture
from veneer.model.families.choose import spec_from_hf
from veneer.model.layers import LAYERS, DecoderLayer, Mlp, PerHeadNorm, SelfAttention, feed_forward
from veneer.model.leaves import DenseLinear, make_norm
from veneer.model.mixture import MixtureSpec, Routing
from veneer.model.rope import Rotary
from veneer.model.shape import DecoderSpec, Norm, NormPlacement, Projections

SPEC = spec_from_hf({**SHAPES, "model_type": "llama"})
LENGTHS = [5, 1, 9]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer_of(spec: DecoderSpec) -> DecoderLayer:
    return LAYERS[spec.norm_placement](spec, 0, RandomWeights())


def written_out(layer: DecoderLayer, placement: NormPlacement, x: Tensor, *context: object) -> Tensor:
    """The sums as the papers write them, from the layer's own attention, feed-forward and norms."""

    def attention(y: Tensor) -> Tensor:
        return layer.residual_scale * layer.self_attn(y, *context)

    def fed(y: Tensor) -> Tensor:
        return layer.residual_scale * layer.mlp(y)

    if placement is NormPlacement.PRE:
        x = x + attention(layer.input_layernorm(x))
        return x + fed(layer.post_attention_layernorm(x))
    if placement is NormPlacement.POST:
        x = x + layer.residual_scale * layer.post_attention_layernorm(layer.self_attn(x, *context))
        return x + layer.residual_scale * layer.post_feedforward_layernorm(layer.mlp(x))
    if placement is NormPlacement.PARALLEL:
        normed = layer.input_layernorm(x)
        return x + attention(normed) + fed(normed)
    attended = layer.self_attn(layer.input_layernorm(x), *context)
    x = x + layer.residual_scale * layer.post_attention_layernorm(attended)
    fed_forward = layer.mlp(layer.pre_feedforward_layernorm(x))
    return x + layer.residual_scale * layer.post_feedforward_layernorm(fed_forward)


@pytest.mark.parametrize("residual_scale", [1.0, 0.4])
@pytest.mark.parametrize("placement", NormPlacement)
def test_a_layer_and_its_gradients_are_its_sums_written_out(placement: NormPlacement, residual_scale: float) -> None:
    layer = layer_of(replace(SPEC, norm_placement=placement, residual_scale=residual_scale))
    x = randn(sum(LENGTHS), SPEC.hidden_size, seed=1).requires_grad_()
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    angles = Rotary(SPEC.rope, SPEC.head_dim, torch.device("cpu"))(positions, None)
    context = (angles, PackedAttention(LENGTHS))
    found, expected = layer(x, *context), written_out(layer, placement, x, *context)
    assert largest_difference(found, expected) < 1e-10
    grad = randn(*x.shape, seed=2)
    for one, other in zip(torch.autograd.grad(found, x, grad), torch.autograd.grad(expected, x, grad), strict=True):
        assert largest_difference(one, other) < 1e-9


@pytest.mark.parametrize("placement", NormPlacement)
def test_tensors_are_asked_for_in_the_order_of_checkpoints(placement: NormPlacement) -> None:
    weights = RandomWeights()
    LAYERS[placement](replace(SPEC, norm_placement=placement), 1, weights)
    names = [path.removeprefix("model.layers.1.").removesuffix(".weight") for path in weights.asked]
    attention = [f"self_attn.{name}_proj" for name in "qkvo"]
    rest = [name for name in placement.norms if name != "input_layernorm"]
    before = ["input_layernorm"] if "input_layernorm" in placement.norms else []
    assert names == [*before, *attention, *rest, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


def test_fused_projections_compute_what_separate_ones_do() -> None:
    apart = RandomWeights()
    attention, mlp = SelfAttention(SPEC, 0, apart), Mlp(SPEC, 0, apart)
    fused = replace(SPEC, projections=Projections.FUSED)
    one, other = SelfAttention(fused, 0, RandomWeights(7)), Mlp(fused, 0, RandomWeights(8))
    parts = [(one.qkv_proj, [attention.q_proj, attention.k_proj, attention.v_proj]), (one.o_proj, [attention.o_proj])]
    parts += [(other.gate_up_proj, [mlp.gate_proj, mlp.up_proj]), (other.down_proj, [mlp.down_proj])]
    for whole, layers in parts:
        assert isinstance(whole, DenseLinear)
        whole.weight.data = torch.cat([layer.weight.data for layer in layers])
    x = randn(sum(LENGTHS), SPEC.hidden_size)
    layout = PackedAttention(LENGTHS)
    assert largest_difference(one(x, None, layout), attention(x, None, layout)) < 1e-12
    assert largest_difference(other(x), mlp(x)) < 1e-12


def test_a_norm_for_each_head_is_one_norm_a_head() -> None:
    norm = PerHeadNorm(RandomWeights(), "a.q_layernorm", 3, 8, 1e-5)
    x = randn(4, 3, 8)
    single = RandomWeights()
    for head in range(3):
        one = make_norm(Norm.LAYER, single, f"a.q_layernorm.norms.{head}", (8,), 1e-5)
        assert largest_difference(norm(x)[:, head], one(x[:, head])) < 1e-12


def test_layers_with_experts_are_those_that_the_mixture_names() -> None:
    mixture = MixtureSpec(experts=3, top_k=2, inner=20, routing=Routing.PLAIN, dense=frozenset({1}))
    spec = replace(SPEC, mixture=mixture)
    assert isinstance(feed_forward(spec, 0, RandomWeights()), Mixture)
    assert isinstance(feed_forward(spec, 1, RandomWeights()), Mlp)
    weights = RandomWeights()
    feed_forward(spec, 0, weights)
    assert weights.asked[0] == "model.layers.0.mlp.gate.weight"
    assert len(weights.asked) == 1 + 3 * 3
