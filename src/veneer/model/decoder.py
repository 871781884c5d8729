"""veneer's own decoder: tokens, positions and an attention layout in, hidden states out.

Tokens are one flat list `[tokens]`. An `Attention` decides which of them see each other. Module paths and tensor names
are Hugging Face's. Projections are fused or separate as in the files, so that checkpoint keys and PEFT's
`target_modules` fit as they are.

The constructor asks a `Weights` for every tensor by its path, and a `Tables` for embedding and head, in checkpoint
order. The decoder does not know how a weight is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from veneer.gpu.parked import Copier, ParkedInputs
from veneer.model.attention import Attention, PackedAttention, TextLengths
from veneer.model.beside import Pass
from veneer.model.cache import KVCache
from veneer.model.compiled_step import CompiledStep, compile_step
from veneer.model.decoding import CachedDecoding
from veneer.model.layers import LAYERS
from veneer.model.leaves import (
    DenseLinear,
    DenseTables,
    Embedding,
    HostEmbedding,
    Tables,
    Weights,
    make_norm,
)
from veneer.model.recompute import Recomputation
from veneer.model.rope import Angles, Rotary
from veneer.model.shape import DecoderSpec
from veneer.products import Scores
from veneer.tables import TokenLookup


class Decoder(nn.Module):
    """Embedding, layers and final norm (`model.` in the checkpoint)."""

    def __init__(self, spec: DecoderSpec, weights: Weights, tables: Tables):
        super().__init__()
        self.embed_tokens = tables.embedding("model.embed_tokens.weight", (spec.vocab_size, spec.hidden_size))
        self.layers = nn.ModuleList(
            LAYERS[spec.norm_placement](spec, layer, weights) for layer in range(spec.num_layers)
        )
        self.norm = make_norm(spec.norm, weights, "model.norm", (spec.hidden_size,), spec.norm_eps)
        self.recomputation: Recomputation | None = None
        """How layers are recomputed in backward; None keeps their activations."""
        device = self.norm.weight.device
        self.ropes = nn.ModuleList(Rotary(rope, spec.head_dim, device) for rope in spec.ropes)
        self.by_length = spec.by_length
        # Index into `ropes` for each layer; None if a layer has no rotary positions.
        self._rope_of = [None if one.rope is None else spec.ropes.index(one.rope) for one in spec.layers]
        self._embedding_scale, self._rounded = spec.embedding_scale, spec.embedding_scale_rounded

    def embedded(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Scaled token embeddings, the input of the first layer, `[tokens, dim]` in `dtype`."""
        x: Tensor = self.embed_tokens(tokens, dtype)
        if self._embedding_scale == 1.0:
            return x
        scale = self._embedding_scale
        return x * (float(torch.tensor(scale, dtype=dtype)) if self._rounded else scale)

    def angles(self, positions: Tensor, attention: TextLengths) -> list[Angles | None]:
        """The rotary angles of each layer; None for a layer without rotary positions."""
        lengths = attention.text_lengths().to(positions.device) if self.by_length else None
        made = [rotary(positions, lengths) for rotary in self.ropes]
        return [None if number is None else made[number] for number in self._rope_of]

    def forward(self, tokens: Tensor, positions: Tensor, attention: Attention, dtype: torch.dtype) -> Tensor:
        """Hidden states `[tokens, dim]` after the final norm, computed in `dtype`."""
        x = self.embedded(tokens, dtype)
        parked = self._parking()
        for layer, angles in zip(self.layers, self.angles(positions, attention), strict=True):
            x = self._computed(layer, x, angles, attention, parked)
        return cast(Tensor, self.norm(x))

    def side_by_side(self, one: Pass, other: Pass, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Hidden states of two passes, `[tokens, dim]` each: a layer of the first one before that layer of the other,
        which has no gradient."""
        x, parked = self.embedded(one.tokens, dtype), self._parking()
        with torch.no_grad():
            y = self.embedded(other.tokens, dtype)
        angles = zip(*(self.angles(each.positions, each.attention) for each in (one, other)), strict=True)
        for layer, (own, others) in zip(self.layers, angles, strict=True):
            x = self._computed(layer, x, own, one.attention, parked)
            with torch.no_grad():
                y = layer(y, others, other.attention)
        with torch.no_grad():
            y = self.norm(y)
        return cast(Tensor, self.norm(x)), y

    def _parking(self) -> ParkedInputs | None:
        return None if self.recomputation is None else self.recomputation.parking()

    def _computed(
        self, layer: nn.Module, x: Tensor, angles: Angles | None, attention: Attention, parked: ParkedInputs | None
    ) -> Tensor:
        """A layer's output, which is recomputed in backward where layers are."""
        if self.recomputation is None:
            return cast(Tensor, layer(x, angles, attention))
        return self.recomputation.run(layer, x, angles, attention, parked=parked)


class CausalLM(nn.Module):
    """A decoder with its language-model head.

    Args:
        spec: sizes and switches of the decoder.
        weights: makes the modules that hold weights.
        dtype: dtype of activations and products; the weights may have another.
        tables: makes embedding and head; None makes them from tensors of `weights`.
    """

    def __init__(self, spec: DecoderSpec, weights: Weights, dtype: torch.dtype, tables: Tables | None = None):
        super().__init__()
        self.spec = spec
        self.dtype = dtype
        recording = _RecordingWeights(weights)
        tables = tables or DenseTables(weights)
        self.model = Decoder(spec, recording, tables)
        self._linears = recording.linears
        if spec.tied_head:
            self.lm_head: nn.Module = self.model.embed_tokens.tied_head()
        else:
            self.lm_head = tables.head("lm_head.weight", (spec.vocab_size, spec.hidden_size))

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.norm.weight.device

    @property
    def flat(self) -> bool:
        """True: tokens are one flat list. See `veneer.model.language.LanguageModel.flat`."""
        return True

    @property
    def fan_in_fan_out(self) -> bool:
        """False: all linear layers are stored `[out, in]`."""
        return False

    @property
    def embedding(self) -> nn.Module:
        """The token embedding."""
        return self.model.embed_tokens

    def hidden(self, tokens: Tensor, positions: Tensor, attention: Attention) -> Tensor:
        """Hidden states `[tokens, dim]` for int64 `tokens` and `positions` `[tokens]`."""
        return cast(Tensor, self.model(tokens, positions, attention, self.dtype))

    def side_by_side(self, one: Pass, other: Pass) -> tuple[Tensor, Tensor]:
        """Hidden states of two passes, `[tokens, dim]` each, the other one's without a gradient."""
        return self.model.side_by_side(one, other, self.dtype)

    def documents(self, tokens: Tensor, positions: Tensor, lengths: Sequence[int], shared: int = 0) -> Tensor:
        """Hidden states `[tokens, dim]` of packed documents; see `veneer.model.language.LanguageModel`."""
        return self.hidden(tokens, positions, PackedAttention(lengths, shared))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of the next token, `[rows, dim]` to `[rows, vocab_size]`.

        They are in the compute dtype, or at least in float32 if the head's products are scaled or capped.
        """
        return shaped(self.lm_head(hidden), self.spec.scores)

    def decoding(self, rows: int, capacity: int) -> CachedDecoding:
        """A decoding with a cache for `rows` rows of at most `capacity` tokens each."""
        return CachedDecoding(
            self.hidden,
            self.logits,
            lambda count: KVCache(self.spec, count, capacity, dtype=self.dtype, device=self.device),
            self.spec.outgrown,
        )

    def compiled_step(self, rows: int) -> CompiledStep | None:
        """A step of at most `rows` tokens of any sequences; None if the compiled library does not know all
        operations."""
        return compile_step(
            self.model, self.lm_head, self.spec, self.dtype, rows, lambda products: shaped(products, self.spec.scores)
        )

    def row_bytes(self, capacity: int) -> int:
        """Bytes of the keys and values of a row of `capacity` tokens."""
        return capacity * self.spec.token_bytes(self.dtype)

    def recompute(self, how: Recomputation | None) -> None:
        """Use gradient checkpointing, or keep the activations of all layers (None)."""
        self.model.recomputation = how

    def give_memory(self, device: torch.device) -> None:
        """Give memory on a device to a model that was built on the meta device. Its weights are then uninitialised."""
        self.to_empty(device=device)
        for rotary in self.model.ropes:
            cast(Rotary, rotary).place(device)
        if self.spec.tied_head:
            # Each of the two got separate memory. The head must stay the same module: others already refer to it.
            cast(DenseLinear, self.lm_head).weight = cast(Embedding, self.model.embed_tokens).weight

    def park_inputs(self, copier: Copier) -> None:
        """Keep the inputs of recomputed layers in the main memory."""
        assert self.model.recomputation is not None, "only inputs of layers that are recomputed are parked"
        self.model.recomputation = replace(self.model.recomputation, copier=copier)

    def host_embedding(self) -> None:
        """Move the embedding to the main memory; the head stays.

        Raises:
            ValueError: the head is tied to the embedding.
        """
        if self.spec.tied_head:
            raise ValueError("the head is tied to the embedding, which cannot be moved without it")
        weight = self.model.embed_tokens.get_parameter("weight")
        self.model.embed_tokens = cast(TokenLookup, HostEmbedding(weight, self.device))

    def set_embeddings(self, embedding: nn.Module, head: nn.Module, vocab_size: int) -> None:
        """Replace the embedding and the head, and set the size of the vocabulary."""
        self.model.embed_tokens, self.lm_head = cast(TokenLookup, embedding), head
        self.spec = replace(self.spec, vocab_size=vocab_size)

    def linear_paths(self) -> list[str]:
        """Paths of the linear layers that can carry an adapter, in model order; the head is not among them."""
        # The experts of a layer are adapted all together, as one parameter.
        linears = {path for path in self._linears if ".experts." not in path}
        return [path for path, _ in self.named_modules() if path in linears]


def shaped(products: Tensor, scores: Scores) -> Tensor:
    """Logits from the head's products: scaled and soft-capped in float32 or wider, or unchanged where neither
    applies."""
    if scores.plain:
        return products
    wide = products.to(torch.promote_types(products.dtype, torch.float32)) * scores.scale
    return wide if scores.softcap is None else torch.tanh(wide / scores.softcap) * scores.softcap


@dataclass(frozen=True, slots=True)
class _RecordingWeights:
    """A `Weights` that passes every request on, and records the paths of linear layers."""

    weights: Weights
    linears: set[str] = field(default_factory=set)

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        self.linears.add(path)
        return self.weights.linear(path, in_features, out_features, bias=bias)

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        return self.weights.parameter(path, shape)


def plain_weight(head: nn.Module) -> Tensor | None:
    """The weight of a head that has no bias and no update, otherwise None."""
    return head.weight if isinstance(head, DenseLinear) and head.bias is None else None
