"""The decoder: tokens, positions and an attention layout in, hidden states out.

Tokens stand in one flat list `[tokens]`; which of them see each other is the `Attention`'s business. Module paths and
tensor names are Hugging Face's, q, k and v stay apart, so that checkpoint keys and PEFT's `target_modules` fit as they
are.

The constructor asks a `Weights` for every tensor by its path, in checkpoint order. That one argument decides how a
weight is held (dense, quantised, trainable) and lets it be streamed from disk; the decoder knows none of it.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from veneer.model.attention import Attention
from veneer.model.experts import Expert, Experts, Mixture
from veneer.model.fused import add_rms_norm, rms_norm, swiglu
from veneer.model.recompute import Recomputation, remade
from veneer.model.rope import apply_rotation, inverse_frequencies, rotation
from veneer.model.spec import DecoderSpec
from veneer.products import Frozen, LowRank, inputs, outputs, through


class BaseLinear(Frozen, Protocol):
    """What an adapter needs of the linear layer that it stands on (contract 1 in docs/design.md)."""

    in_features: int
    out_features: int
    bias: Tensor | None

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight `[out_features, in_features]` in `dtype`."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """x Wᵀ (+ bias), `[tokens, in_features]` to `[tokens, out_features]`."""
        ...


class Weights(Protocol):
    """Makes the decoder's leaves; called once for every path."""

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        """A `BaseLinear` for `{path}.weight` (and `{path}.bias`)."""
        ...

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        """A tensor of its own (embedding or norm) under its full name."""
        ...


class DenseLinear(nn.Module):
    """A float linear layer; frozen or trainable as its parameters say. Computes in the dtype of its input."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.bias = bias

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight `[out_features, in_features]` in `dtype`; no copy where it is stored so."""
        return self.weight.to(dtype)

    def product(self, x: Tensor, update: LowRank | None = None) -> Tensor:
        """x Wᵀ (+ bias) (+ update); see `BaseLinear`."""
        return outputs(x, self.weight.to(x.dtype), self.bias, update)

    def input_gradient(self, grad: Tensor, update: LowRank | None = None) -> Tensor:
        """grad W (+ update); see `BaseLinear`."""
        return inputs(grad, self.weight.to(grad.dtype), update)

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ (+ bias)."""
        if self.weight.requires_grad:
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return functional.linear(x, self.weight.to(x.dtype), bias)
        return through(self, x)


class RmsNorm(nn.Module):
    """RMS normalisation with a weight."""

    def __init__(self, weight: nn.Parameter, eps: float):
        super().__init__()
        self.weight = weight
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[tokens, dim]` over its last axis."""
        return rms_norm(x, self.weight, self.eps)

    def after_adding(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """x + delta, and its norm."""
        return add_rms_norm(x, delta, self.weight, self.eps)


class Embedding(nn.Module):
    """Token embedding; its weight may also be the head's."""

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight

    def forward(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of the table, `[tokens]` to `[tokens, dim]` in `dtype`."""
        return functional.embedding(tokens, self.weight).to(dtype)


class SelfAttention(nn.Module):
    """Grouped-query self-attention (Ainslie et al., 2023, arXiv:2305.13245) with rotary positions."""

    def __init__(self, spec: DecoderSpec, layer: int, weights: Weights):
        super().__init__()
        path, dim = f"model.layers.{layer}.self_attn", spec.hidden_size
        self.layer, self.head_dim = layer, spec.head_dim
        inner, inner_kv = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        self.q_proj = weights.linear(f"{path}.q_proj", dim, inner, bias=spec.attention_bias)
        self.k_proj = weights.linear(f"{path}.k_proj", dim, inner_kv, bias=spec.attention_bias)
        self.v_proj = weights.linear(f"{path}.v_proj", dim, inner_kv, bias=spec.attention_bias)
        self.o_proj = weights.linear(f"{path}.o_proj", inner, dim, bias=spec.attention_bias)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor, attention: Attention) -> Tensor:
        """Mix tokens `[tokens, dim]` as the layout allows."""
        queries = apply_rotation(self.q_proj(x).unflatten(-1, (-1, self.head_dim)), cosine, sine)
        keys = apply_rotation(self.k_proj(x).unflatten(-1, (-1, self.head_dim)), cosine, sine)
        values = self.v_proj(x).unflatten(-1, (-1, self.head_dim))
        mixed = attention.attend(self.layer, queries, keys, values)
        return cast(Tensor, self.o_proj(mixed.flatten(1)))


class Mlp(nn.Module):
    """The gated feed-forward block."""

    def __init__(self, spec: DecoderSpec, layer: int, weights: Weights):
        super().__init__()
        path, dim, inner = f"model.layers.{layer}.mlp", spec.hidden_size, spec.intermediate_size
        self.gate_proj = weights.linear(f"{path}.gate_proj", dim, inner, bias=spec.mlp_bias)
        self.up_proj = weights.linear(f"{path}.up_proj", dim, inner, bias=spec.mlp_bias)
        self.down_proj = weights.linear(f"{path}.down_proj", inner, dim, bias=spec.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """down(silu(gate(x)) · up(x)), `[tokens, dim]`."""
        gate, up = self.gate_proj(x), self.up_proj(x)
        mixed = swiglu(gate, up)
        with remade(mixed, lambda: swiglu(gate.detach(), up.detach())):
            return cast(Tensor, self.down_proj(mixed))


def _feed_forward(spec: DecoderSpec, layer: int, weights: Weights) -> nn.Module:
    mixture, dim = spec.mixture, spec.hidden_size
    if mixture is None or layer in mixture.dense:
        return Mlp(spec, layer, weights)
    path = f"model.layers.{layer}.mlp"
    # No linear layer by name: a router is never quantised, since a rounded score sends tokens to other experts.
    router = weights.parameter(f"{path}.{mixture.router}.weight", (mixture.experts, dim))
    shape = (mixture.experts,)
    bias = weights.parameter(f"{path}.{mixture.router}.bias", shape) if mixture.router_bias else None
    sizes = (("gate_proj", dim, mixture.inner), ("up_proj", dim, mixture.inner), ("down_proj", mixture.inner, dim))
    experts = [
        Expert(*(weights.linear(f"{path}.experts.{number}.{leaf}", *size, bias=mixture.bias) for leaf, *size in sizes))
        for number in range(mixture.experts)
    ]
    return Mixture(DenseLinear(router, bias), Experts(experts, mixture), mixture)


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, spec: DecoderSpec, layer: int, weights: Weights):
        super().__init__()
        path, shape = f"model.layers.{layer}", (spec.hidden_size,)
        self.input_layernorm = RmsNorm(weights.parameter(f"{path}.input_layernorm.weight", shape), spec.norm_eps)
        self.self_attn = SelfAttention(spec, layer, weights)
        self.post_attention_layernorm = RmsNorm(
            weights.parameter(f"{path}.post_attention_layernorm.weight", shape), spec.norm_eps
        )
        self.mlp = _feed_forward(spec, layer, weights)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor, attention: Attention) -> Tensor:
        """One layer over `[tokens, dim]`."""
        normed = self.input_layernorm(x)
        with remade(normed, lambda: self.input_layernorm(x.detach())):
            attended = self.self_attn(normed, cosine, sine, attention)
        between, normed_between = self.post_attention_layernorm.after_adding(x, attended)
        with remade(normed_between, lambda: self.post_attention_layernorm(between.detach())):
            return cast(Tensor, between + self.mlp(normed_between))


class Decoder(nn.Module):
    """Embedding, layers and final norm (`model.` in the checkpoint)."""

    frequencies: Tensor

    def __init__(self, spec: DecoderSpec, weights: Weights):
        super().__init__()
        self.embed_tokens = Embedding(
            weights.parameter("model.embed_tokens.weight", (spec.vocab_size, spec.hidden_size))
        )
        self.layers = nn.ModuleList(Layer(spec, layer, weights) for layer in range(spec.num_layers))
        self.norm = RmsNorm(weights.parameter("model.norm.weight", (spec.hidden_size,)), spec.norm_eps)
        self.recomputation: Recomputation | None = None
        """How layers are recomputed in backward; None keeps their activations."""
        frequencies = inverse_frequencies(spec.rope, spec.head_dim).to(self.norm.weight.device)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, tokens: Tensor, positions: Tensor, attention: Attention, dtype: torch.dtype) -> Tensor:
        """Hidden states `[tokens, dim]` after the final norm, computed in `dtype`."""
        x = self.embed_tokens(tokens, dtype)
        cosine, sine = rotation(positions, self.frequencies)
        for layer in self.layers:
            if self.recomputation is None:
                x = layer(x, cosine, sine, attention)
            else:
                x = self.recomputation.run(layer, x, cosine, sine, attention)
        return cast(Tensor, self.norm(x))


class CausalLM(nn.Module):
    """A decoder with its language-model head.

    Args:
        spec: shapes.
        weights: makes the leaves.
        dtype: the dtype of activations and products, whatever the weights are stored in.
    """

    def __init__(self, spec: DecoderSpec, weights: Weights, dtype: torch.dtype):
        super().__init__()
        self.spec = spec
        self.dtype = dtype
        self.model = Decoder(spec, weights)
        if spec.tied_head:
            self.lm_head: nn.Module = DenseLinear(self.model.embed_tokens.weight)
        else:
            self.lm_head = DenseLinear(weights.parameter("lm_head.weight", (spec.vocab_size, spec.hidden_size)))

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.norm.weight.device

    @property
    def head_weight(self) -> Tensor | None:
        """`[vocab_size, dim]` where the scores are the hidden states' product with it and nothing else."""
        return plain_weight(self.lm_head)

    def hidden(self, tokens: Tensor, positions: Tensor, attention: Attention) -> Tensor:
        """Hidden states `[tokens, dim]` for int64 `tokens` and `positions` `[tokens]`."""
        return cast(Tensor, self.model(tokens, positions, attention, self.dtype))

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, `[rows, dim]` to `[rows, vocab_size]` in the compute dtype."""
        return cast(Tensor, self.lm_head(hidden))


def plain_weight(head: nn.Module) -> Tensor | None:
    """A head's weight, where its scores are the product with it and nothing else."""
    return head.weight if isinstance(head, DenseLinear) and head.bias is None else None
