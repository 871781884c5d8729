"""The decoder: tokens, positions and an attention layout in, hidden states out.

Tokens stand in one flat list `[tokens]`; which of them see each other is the `Attention`'s business. Module paths and
tensor names are Hugging Face's, q, k and v stay apart, so that checkpoint keys and PEFT's `target_modules` fit as they
are.

The constructor asks a `Weights` for every tensor by its path, in checkpoint order. That one argument decides how a
weight is held (dense, quantised, trainable) and lets it be streamed from disk; the decoder knows none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from veneer.model.attention import Attention, PackedAttention
from veneer.model.cache import KVCache
from veneer.model.decoding import CachedDecoding
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
        self.mlp = Mlp(spec, layer, weights)

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
        noted = _Noted(weights)
        self.model = Decoder(spec, noted)
        self._linears = noted.linears
        if spec.tied_head:
            self.lm_head: nn.Module = DenseLinear(self.model.embed_tokens.weight)
        else:
            self.lm_head = DenseLinear(weights.parameter("lm_head.weight", (spec.vocab_size, spec.hidden_size)))

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.norm.weight.device

    @property
    def flat(self) -> bool:
        """True; see `veneer.model.language.LanguageModel`."""
        return True

    @property
    def fan_in_fan_out(self) -> bool:
        """False; see `veneer.model.language.LanguageModel`."""
        return False

    @property
    def embedding(self) -> nn.Module:
        """The token embedding."""
        return self.model.embed_tokens

    @property
    def head_weight(self) -> Tensor | None:
        """`[vocab_size, dim]` where the scores are the hidden states' product with it and nothing else."""
        return plain_weight(self.lm_head)

    def hidden(self, tokens: Tensor, positions: Tensor, attention: Attention) -> Tensor:
        """Hidden states `[tokens, dim]` for int64 `tokens` and `positions` `[tokens]`."""
        return cast(Tensor, self.model(tokens, positions, attention, self.dtype))

    def documents(self, tokens: Tensor, positions: Tensor, lengths: Sequence[int], shared: int = 0) -> Tensor:
        """Hidden states `[tokens, dim]` of packed documents; see `veneer.model.language.LanguageModel`."""
        return self.hidden(tokens, positions, PackedAttention(lengths, shared))

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, `[rows, dim]` to `[rows, vocab_size]` in the compute dtype."""
        return cast(Tensor, self.lm_head(hidden))

    def decoding(self, rows: int, capacity: int) -> CachedDecoding:
        """Room for `rows` rows of at most `capacity` tokens."""
        return CachedDecoding(self.hidden, KVCache(self.spec, rows, capacity, dtype=self.dtype, device=self.device))

    def row_bytes(self, capacity: int) -> int:
        """Keys and values of a row of `capacity` tokens."""
        spec = self.spec
        return 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * capacity * self.dtype.itemsize

    def recompute(self, how: Recomputation | None) -> None:
        """Compute layers again in backward, or keep their activations."""
        self.model.recomputation = how

    def put_tables(self, embedding: nn.Module, head: nn.Module, vocab_size: int) -> None:
        """Put other modules in the place of embedding and head."""
        self.model.embed_tokens, self.lm_head = cast(Embedding, embedding), head
        self.spec = replace(self.spec, vocab_size=vocab_size)

    def linear_paths(self) -> list[str]:
        """Paths of the linear layers that can carry an adapter, in model order; the head is not among them."""
        return [path for path, _ in self.named_modules() if path in self._linears]


@dataclass(frozen=True, slots=True)
class _Noted:
    """Passes every request on, and keeps the paths of linear layers."""

    weights: Weights
    linears: set[str] = field(default_factory=set)

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        self.linears.add(path)
        return self.weights.linear(path, in_features, out_features, bias=bias)

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        return self.weights.parameter(path, shape)


def plain_weight(head: nn.Module) -> Tensor | None:
    """A head's weight, where its scores are the product with it and nothing else."""
    return head.weight if isinstance(head, DenseLinear) and head.bias is None else None
