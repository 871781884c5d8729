"""The decoder: tokens, positions and an attention layout in, hidden states out.

Tokens stand in one flat list `[tokens]`; which of them see each other is the `Attention`'s business. Module paths and
tensor names are Hugging Face's, and what is stored apart or fused stays so, so that checkpoint keys and PEFT's
`target_modules` fit as they are.

The constructor asks a `Weights` for every tensor by its path, in checkpoint order; the decoder knows nothing of how a
weight is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from veneer.model.attention import Attention, PackedAttention
from veneer.model.cache import KVCache
from veneer.model.decoding import CachedDecoding
from veneer.model.layers import LAYERS, DecoderLayer, Mlp, SelfAttention
from veneer.model.leaves import BaseLinear, DenseLinear, Embedding, RmsNorm, Weights, make_norm
from veneer.model.recompute import Recomputation
from veneer.model.rope import Angles, Rotary
from veneer.model.shape import DecoderSpec, RopeKind
from veneer.products import Scores

__all__ = [
    "BaseLinear",
    "CausalLM",
    "Decoder",
    "DecoderLayer",
    "DenseLinear",
    "Embedding",
    "Mlp",
    "RmsNorm",
    "SelfAttention",
    "Weights",
    "plain_weight",
    "shaped",
]  # fmt: skip


class Decoder(nn.Module):
    """Embedding, layers and final norm (`model.` in the checkpoint)."""

    def __init__(self, spec: DecoderSpec, weights: Weights):
        super().__init__()
        self.embed_tokens = Embedding(
            weights.parameter("model.embed_tokens.weight", (spec.vocab_size, spec.hidden_size))
        )
        self.layers = nn.ModuleList(LAYERS[spec.block](spec, layer, weights) for layer in range(spec.num_layers))
        self.norm = make_norm(spec.norm, weights, "model.norm", (spec.hidden_size,), spec.norm_eps)
        self.recomputation: Recomputation | None = None
        """How layers are recomputed in backward; None keeps their activations."""
        device = self.norm.weight.device
        self.ropes = nn.ModuleList(Rotary(rope, spec.head_dim, device) for rope in spec.ropes)
        self.by_length = spec.by_length
        # Number of the rope that each layer turns by.
        self._rope_of = [None if one.rope is None else spec.ropes.index(one.rope) for one in spec.layers]
        self._embedding_scale, self._rounded = spec.embedding_scale, spec.embedding_scale_rounded

    def embedded(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """What the first layer reads, `[tokens, dim]` in `dtype`."""
        x: Tensor = self.embed_tokens(tokens, dtype)
        if self._embedding_scale == 1.0:
            return x
        scale = self._embedding_scale
        return x * (float(torch.tensor(scale, dtype=dtype)) if self._rounded else scale)

    def angles(self, positions: Tensor, attention: Attention) -> list[Angles | None]:
        """By what each layer turns its queries and keys."""
        lengths = attention.text_lengths().to(positions.device) if self.by_length else None
        made = [rotary(positions, lengths) for rotary in self.ropes]
        return [None if number is None else made[number] for number in self._rope_of]

    def forward(self, tokens: Tensor, positions: Tensor, attention: Attention, dtype: torch.dtype) -> Tensor:
        """Hidden states `[tokens, dim]` after the final norm, computed in `dtype`."""
        x = self.embedded(tokens, dtype)
        for layer, angles in zip(self.layers, self.angles(positions, attention), strict=True):
            if self.recomputation is None:
                x = layer(x, angles, attention)
            else:
                x = self.recomputation.run(layer, x, angles, attention)
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
        """Scores of the next token, `[rows, dim]` to `[rows, vocab_size]`: in the compute dtype, or at least in float32
        where the head's products are scaled or capped first."""
        return shaped(self.lm_head(hidden), self.spec.scores)

    def decoding(self, rows: int, capacity: int) -> CachedDecoding:
        """Room for `rows` rows of at most `capacity` tokens."""
        outgrown = {rope.original_max_positions for rope in self.spec.ropes if rope.kind is RopeKind.LONGROPE}
        return CachedDecoding(
            self.hidden,
            lambda count: KVCache(self.spec, count, capacity, dtype=self.dtype, device=self.device),
            frozenset(outgrown) if self.spec.by_length else frozenset(),
        )

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
        # An expert's layers are adapted together with all others' of its layer.
        linears = {path for path in self._linears if ".experts." not in path}
        return [path for path, _ in self.named_modules() if path in linears]


def shaped(products: Tensor, scores: Scores) -> Tensor:
    """Scores from the head's products; float32 or wider unless nothing is to be done."""
    if scores.plain:
        return products
    wide = products.to(torch.promote_types(products.dtype, torch.float32)) * scores.scale
    return wide if scores.softcap is None else torch.tanh(wide / scores.softcap) * scores.softcap


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
