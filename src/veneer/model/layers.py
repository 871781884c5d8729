"""The layers of a decoder: attention, feed-forward, and the order of norms and residual sums around them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor, nn

from veneer.model.attention import Attention
from veneer.model.experts import Expert, Experts, Mixture
from veneer.model.fused import geglu, swiglu
from veneer.model.leaves import DenseLinear, NormModule, Weights, make_norm, outputs_of
from veneer.model.recompute import recomputed_in_backward
from veneer.model.rope import Angles, turn_heads
from veneer.model.shape import Activation, DecoderSpec, Norm, NormPlacement, Projections, QkNorm

GATED = {Activation.SILU: swiglu, Activation.GELU_TANH: geglu}
"""Functions that compute activation(gate) · up."""


class PerHeadNorm(nn.Module):
    """A LayerNorm for each head (StableLM's `q_layernorm.norms.0.weight`, …)."""

    def __init__(self, weights: Weights, path: str, heads: int, head_dim: int, eps: float):
        super().__init__()
        self.norms = nn.ModuleList(
            make_norm(Norm.LAYER, weights, f"{path}.norms.{head}", (head_dim,), eps) for head in range(heads)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[tokens, heads, head_dim]`."""
        return torch.stack([norm(one) for norm, one in zip(self.norms, x.unbind(1), strict=True)], dim=1)


def _qk_norm(spec: DecoderSpec, weights: Weights, path: str, heads: int) -> nn.Module:
    """The norm of the queries, or of the keys."""
    if spec.qk_norm is QkNorm.OWN_MODULES:
        return PerHeadNorm(weights, path, heads, spec.head_dim, spec.norm_eps)
    shapes = {QkNorm.SHARED: (spec.head_dim,), QkNorm.WIDTH: (heads * spec.head_dim,)}
    shape = shapes.get(spec.qk_norm, (heads, spec.head_dim))
    return make_norm(spec.norm, weights, path, shape, spec.norm_eps)


class SelfAttention(nn.Module):
    """Grouped-query self-attention (Ainslie et al., 2023, arXiv:2305.13245) with rotary positions."""

    def __init__(self, spec: DecoderSpec, layer: int, weights: Weights):
        super().__init__()
        path, dim = f"model.layers.{layer}.self_attn", spec.hidden_size
        self.layer, self.head_dim, self.attention_spec = layer, spec.head_dim, spec.layers[layer].attention_spec
        self.widths = (spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim)
        inner, inner_kv = self.widths
        self.fused = spec.projections is Projections.FUSED
        if self.fused:
            self.qkv_proj = weights.linear(f"{path}.qkv_proj", dim, inner + 2 * inner_kv, bias=spec.attention_bias)
        else:
            self.q_proj = weights.linear(f"{path}.q_proj", dim, inner, bias=spec.attention_bias)
            self.k_proj = weights.linear(f"{path}.k_proj", dim, inner_kv, bias=spec.attention_bias)
            self.v_proj = weights.linear(f"{path}.v_proj", dim, inner_kv, bias=spec.attention_bias)
        self.o_proj = weights.linear(f"{path}.o_proj", inner, dim, bias=spec.output_bias)
        self.sinks = weights.parameter(f"{path}.sinks", (spec.num_heads,)) if spec.sinks else None
        self.norms, self.norms_by_head = spec.qk_norm_names, spec.qk_norm is not QkNorm.WIDTH
        self.normed = spec.qk_norm is not QkNorm.NONE
        if self.normed:
            for name, heads in zip(self.norms, (spec.num_heads, spec.num_kv_heads), strict=True):
                self.add_module(name, _qk_norm(spec, weights, f"{path}.{name}", heads))

    def forward(self, x: Tensor, angles: Angles | None, attention: Attention) -> Tensor:
        """Attention output for tokens `[tokens, dim]` under an attention layout."""
        queries, keys, values = self._projected(x)
        if self.normed:
            queries, keys = (self._normed(name, part) for name, part in zip(self.norms, (queries, keys), strict=True))
        queries = turn_heads(queries.view(len(x), -1, self.head_dim), angles)
        keys = turn_heads(keys.view(len(x), -1, self.head_dim), angles)
        values = values.view(len(x), -1, self.head_dim)
        mixed = attention.attend(self.layer, queries, keys, values, self.attention_spec, self.sinks)
        return cast(Tensor, self.o_proj(mixed.flatten(1)))

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, `[tokens, heads · head_dim]` each."""
        if not self.fused:
            queries, keys, values = outputs_of((self.q_proj, self.k_proj, self.v_proj), x)
            return queries, keys, values
        inner, inner_kv = self.widths
        # Copies, since the kernels read whole rows, and views would keep the fused output for backward.
        parts = torch.split(self.qkv_proj(x), [inner, inner_kv, inner_kv], dim=-1)
        queries, keys, values = (part.contiguous() for part in parts)
        return queries, keys, values

    def _normed(self, name: str, x: Tensor) -> Tensor:
        norm = self.get_submodule(name)
        return cast(Tensor, norm(x.view(len(x), -1, self.head_dim) if self.norms_by_head else x))


class Mlp(nn.Module):
    """The gated feed-forward block."""

    def __init__(self, spec: DecoderSpec, layer: int, weights: Weights):
        super().__init__()
        path, dim, inner = f"model.layers.{layer}.mlp", spec.hidden_size, spec.intermediate_size
        self.gated = GATED[spec.activation]
        self.fused = spec.projections is Projections.FUSED
        if self.fused:
            self.gate_up_proj = weights.linear(f"{path}.gate_up_proj", dim, 2 * inner, bias=spec.mlp_bias)
        else:
            self.gate_proj = weights.linear(f"{path}.gate_proj", dim, inner, bias=spec.mlp_bias)
            self.up_proj = weights.linear(f"{path}.up_proj", dim, inner, bias=spec.mlp_bias)
        self.down_proj = weights.linear(f"{path}.down_proj", inner, dim, bias=spec.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """down(activation(gate(x)) · up(x)), `[tokens, dim]`."""
        if self.fused:
            gate, up = cast(Tensor, self.gate_up_proj(x)).chunk(2, dim=-1)
        else:
            gate, up = outputs_of((self.gate_proj, self.up_proj), x)
        mixed = self.gated(gate, up)
        with recomputed_in_backward(mixed, lambda: self.gated(gate.detach(), up.detach())):
            return cast(Tensor, self.down_proj(mixed))


def feed_forward(spec: DecoderSpec, layer: int, weights: Weights) -> nn.Module:
    """Make the module at `model.layers.{layer}.mlp`: an `Mlp` or a `Mixture`, `[tokens, dim]` to `[tokens, dim]`."""
    mixture, dim, path = spec.mixture, spec.hidden_size, f"model.layers.{layer}.mlp"
    if mixture is None or layer in mixture.dense:
        return Mlp(spec, layer, weights)
    # A parameter, not a linear layer: a router is never quantised, since a rounded score sends tokens to other experts.
    router = weights.parameter(f"{path}.{mixture.router}.weight", (mixture.experts, dim))
    shape = (mixture.experts,)
    bias = weights.parameter(f"{path}.{mixture.router}.bias", shape) if mixture.router_bias else None
    sizes = (("gate_proj", dim, mixture.inner), ("up_proj", dim, mixture.inner), ("down_proj", mixture.inner, dim))
    experts = [
        Expert(*(weights.linear(f"{path}.experts.{number}.{leaf}", *size, bias=mixture.bias) for leaf, *size in sizes))
        for number in range(mixture.experts)
    ]
    return Mixture(DenseLinear(router, bias), Experts(experts, mixture), mixture)


class DecoderLayer(nn.Module, ABC):
    """One transformer layer, with any order of its norms."""

    input_layernorm: NormModule
    post_attention_layernorm: NormModule
    pre_feedforward_layernorm: NormModule
    post_feedforward_layernorm: NormModule

    def __init__(self, spec: DecoderSpec, layer: int, weights: Weights):
        super().__init__()
        path = f"model.layers.{layer}"
        self.residual_scale = spec.residual_scale
        # In checkpoint order: input_layernorm comes before attention, every other norm after it.
        before = [name for name in spec.norm_placement.norms if name == "input_layernorm"]
        for name in before:
            self._add_norm(spec, path, name, weights)
        self.self_attn = SelfAttention(spec, layer, weights)
        for name in spec.norm_placement.norms[len(before) :]:
            self._add_norm(spec, path, name, weights)
        self.mlp = feed_forward(spec, layer, weights)

    def _add_norm(self, spec: DecoderSpec, path: str, name: str, weights: Weights) -> None:
        self.add_module(name, make_norm(spec.norm, weights, f"{path}.{name}", (spec.hidden_size,), spec.norm_eps))

    @abstractmethod
    def forward(self, x: Tensor, angles: Angles | None, attention: Attention) -> Tensor:
        """One layer over `[tokens, dim]`."""

    def _scaled(self, delta: Tensor) -> Tensor:
        return delta if self.residual_scale == 1.0 else delta * self.residual_scale


class PreNormLayer(DecoderLayer):
    """A layer whose norms come before attention and feed-forward, as in most families."""

    def forward(self, x: Tensor, angles: Angles | None, attention: Attention) -> Tensor:
        """One layer over `[tokens, dim]`."""
        normed = self.input_layernorm(x)
        with recomputed_in_backward(normed, lambda: self.input_layernorm(x.detach())):
            attended = self.self_attn(normed, angles, attention)
        between, normed_between = self.post_attention_layernorm.after_adding(x, self._scaled(attended))
        with recomputed_in_backward(normed_between, lambda: self.post_attention_layernorm(between.detach())):
            return between + self._scaled(self.mlp(normed_between))


class PostNormLayer(DecoderLayer):
    """A layer whose norms come after attention and feed-forward (OLMo 2, arXiv:2501.00656)."""

    def forward(self, x: Tensor, angles: Angles | None, attention: Attention) -> Tensor:
        """One layer over `[tokens, dim]`."""
        between = x + self._scaled(self.post_attention_layernorm(self.self_attn(x, angles, attention)))
        return between + self._scaled(self.post_feedforward_layernorm(self.mlp(between)))


class SandwichLayer(DecoderLayer):
    """A layer with norms on both sides (Gemma 2, arXiv:2408.00118)."""

    def forward(self, x: Tensor, angles: Angles | None, attention: Attention) -> Tensor:
        """One layer over `[tokens, dim]`."""
        normed = self.input_layernorm(x)
        with recomputed_in_backward(normed, lambda: self.input_layernorm(x.detach())):
            attended = self.self_attn(normed, angles, attention)
        between, normed_between = self.pre_feedforward_layernorm.after_adding(
            x, self._scaled(self.post_attention_layernorm(attended))
        )
        with recomputed_in_backward(normed_between, lambda: self.pre_feedforward_layernorm(between.detach())):
            fed = self.mlp(normed_between)
        return between + self._scaled(self.post_feedforward_layernorm(fed))


class ParallelLayer(DecoderLayer):
    """A layer whose attention and feed-forward read the same norm (Command-R)."""

    def forward(self, x: Tensor, angles: Angles | None, attention: Attention) -> Tensor:
        """One layer over `[tokens, dim]`."""
        normed = self.input_layernorm(x)
        with recomputed_in_backward(normed, lambda: self.input_layernorm(x.detach())):
            attended = self.self_attn(normed, angles, attention)
            fed = self.mlp(normed)
        return x + self._scaled(attended) + self._scaled(fed)


LAYERS: dict[NormPlacement, type[DecoderLayer]] = {
    NormPlacement.PRE: PreNormLayer,
    NormPlacement.POST: PostNormLayer,
    NormPlacement.SANDWICH: SandwichLayer,
    NormPlacement.PARALLEL: ParallelLayer,
}
