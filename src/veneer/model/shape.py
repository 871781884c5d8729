"""The specification of a decoder: the choices that model families differ in, as plain data.

The decoder reads a `DecoderSpec` and knows no family names. A family (`veneer.model.families`) is one function that
makes a `DecoderSpec` from a `config.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import cast

import torch

from veneer.model.mixture import MixtureSpec
from veneer.products import PLAIN_SCORES, Scores


class RopeKind(Enum):
    """How the rotary frequencies are scaled beyond the trained context."""

    DEFAULT = "default"
    LINEAR = "linear"
    LLAMA3 = "llama3"
    YARN = "yarn"
    LONGROPE = "longrope"
    """A divisor for each inverse frequency; texts longer than the trained context have others than shorter ones."""
    FACTORS = "veneer_factors"
    """A divisor for each inverse frequency, as in `rope_freqs.weight` of a GGUF file."""


class RopeLayout(Enum):
    """Which two elements of a head are rotated together."""

    HALVES = "halves"
    """x[i] and x[i + dim/2]."""
    NEIGHBOURS = "neighbours"
    """x[2i] and x[2i + 1]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeSpec:
    """Rotary position embedding: base and scaling."""

    theta: float = 10_000.0
    kind: RopeKind = RopeKind.DEFAULT
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    factors: tuple[float, ...] = ()
    """Divisors of FACTORS, and of LONGROPE for texts within `original_max_positions`."""
    long_factors: tuple[float, ...] = ()
    """Divisors of LONGROPE for longer texts."""
    amplitude: float = 1.0
    """Factor of cosine and sine (YaRN's and LongRoPE's attention factor)."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    """Whether YaRN rounds the range that it blends over to whole pairs."""
    share: float = 1.0
    """The share of a head that is rotated (`partial_rotary_factor`). The rest passes through."""
    layout: RopeLayout = RopeLayout.HALVES

    def turned(self, head_dim: int) -> int:
        """Number of elements of a head that are rotated."""
        return int(head_dim * self.share)


class Norm(Enum):
    """How rows are normalised, and when they are rounded."""

    RMS = "rms"
    """round(x · rstd) · w."""
    RMS_ONCE = "rms, rounded once"
    """round(x · rstd · w)."""
    RMS_AROUND_ONE = "rms, weight around one"
    """round(x · rstd · (1 + w))."""
    LAYER = "layer"
    """round((x − mean) · rstd · w)."""
    LAYER_BIAS = "layer with bias"
    """round((x − mean) · rstd · w + b)."""


class NormPlacement(Enum):
    """Where the norms of a decoder layer are; the value names them, in checkpoint order."""

    PRE = ("input_layernorm", "post_attention_layernorm")
    """x + f(norm(x)), for attention and feed-forward in turn."""
    POST = ("post_attention_layernorm", "post_feedforward_layernorm")
    """x + norm(f(x))."""
    SANDWICH = (
        "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
    )  # fmt: skip
    """x + norm(f(norm(x)))."""
    PARALLEL = ("input_layernorm",)
    """x + attention(norm(x)) + feed-forward(norm(x))."""

    @property
    def norms(self) -> tuple[str, ...]:
        """Names of a layer's norms."""
        return cast(tuple[str, ...], self.value)


class QkNorm(Enum):
    """The norm of queries and keys before they are rotated (QK norm)."""

    NONE = "none"
    SHARED = "shared"
    """Each head separately, all with one weight `[head_dim]`."""
    WIDTH = "width"
    """All heads as one row, `[heads · head_dim]`."""
    OWN = "own"
    """Each head with a weight of its own: one tensor `[heads, head_dim]`."""
    OWN_MODULES = "own modules"
    """Each head with a weight of its own: one module per head."""


class Activation(Enum):
    """The gate's function in the feed-forward block."""

    SILU = "silu"
    GELU_TANH = "gelu_pytorch_tanh"
    """x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))."""


class Projections(Enum):
    """Whether projections with one input are separate layers or one fused layer, for storing and for adapters."""

    APART = "apart"
    """q_proj, k_proj, v_proj; gate_proj, up_proj."""
    FUSED = "fused"
    """qkv_proj; gate_up_proj."""


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """How a layer attends: softmax(softcap(scale · q kᵀ)) over the keys within the window."""

    scale: float | None = None
    """Scale of the scores; None means 1/√head_dim."""
    window: int | None = None
    """Number of keys that a query sees, its own included; None means all before it."""
    softcap: float | None = None
    """The soft cap c: scores s become c · tanh(s / c). None means no cap."""

    def of(self, head_dim: int) -> float:
        """The scale of scores between heads of this size."""
        return head_dim**-0.5 if self.scale is None else self.scale

    def window_within(self, longest: int) -> int | None:
        """The window, or None if it hides no key of a text of `longest` tokens."""
        return None if self.window is None or self.window >= longest else self.window


PLAIN_ATTENTION = AttentionSpec()
"""Plain causal attention, the default of every layer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSpec:
    """Attention and rotary positions of one layer."""

    attention_spec: AttentionSpec = PLAIN_ATTENTION
    rope: RopeSpec | None
    """Rotary positions; None where queries and keys are not rotated."""


@dataclass(frozen=True, kw_only=True)
class DecoderSpec:
    """Sizes and switches of one decoder."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    layers: tuple[LayerSpec, ...]
    tied_head: bool
    attention_bias: bool = False
    """Whether q, k and v have biases."""
    output_bias: bool = False
    """Whether the attention's output projection has a bias."""
    mlp_bias: bool = False
    max_positions: int
    """Longest context the model was trained for, in tokens."""
    norm: Norm = Norm.RMS
    norm_placement: NormPlacement = NormPlacement.PRE
    qk_norm: QkNorm = QkNorm.NONE
    qk_norm_names: tuple[str, str] = ("q_norm", "k_norm")
    activation: Activation = Activation.SILU
    projections: Projections = Projections.APART
    embedding_scale: float = 1.0
    embedding_scale_rounded: bool = False
    """Whether that scale is itself rounded to the compute dtype first."""
    residual_scale: float = 1.0
    """Factor of what attention and feed-forward add to the residual stream."""
    scores: Scores = PLAIN_SCORES
    sinks: bool = False
    """Whether every head has a sink: a learned score that gets a share of the softmax but has no value vector."""
    mixture: MixtureSpec | None = None
    """The experts, where feed-forward blocks are mixtures."""

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    def token_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of the keys and values of a token; layers with a window are counted as if they had none."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * dtype.itemsize

    @cached_property
    def ropes(self) -> tuple[RopeSpec, ...]:
        """The distinct rotary positions of the layers, in order of appearance."""
        return tuple(dict.fromkeys(layer.rope for layer in self.layers if layer.rope is not None))

    @property
    def rope(self) -> RopeSpec:
        """The rotary positions of the last layer that has any."""
        return next(layer.rope for layer in reversed(self.layers) if layer.rope is not None)

    @property
    def by_length(self) -> bool:
        """Whether a token's state depends on the length of its whole text (LongRoPE).

        Such texts cannot share a beginning that is computed once.
        """
        return bool(self.outgrown)

    @cached_property
    def outgrown(self) -> frozenset[int]:
        """Lengths of a text beyond which LongRoPE rotates all of it by other angles, so that its cache becomes
        invalid."""
        long = (rope for rope in self.ropes if rope.kind is RopeKind.LONGROPE)
        return frozenset(rope.original_max_positions for rope in long if rope.original_max_positions is not None)
