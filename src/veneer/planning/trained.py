"""Names and shapes of all trained tensors, from shapes alone. The names are those of an adapter's files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from veneer.adapters.files.names import (
    EMBEDDING_A,
    EMBEDDING_B,
    FACTOR_A,
    FACTOR_B,
    FACTOR_B_BIAS,
    MAGNITUDE,
    TOKEN_ROWS,
)
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING, HEAD, names_module
from veneer.enums import Bias, Factors, Variant
from veneer.loading.expected import norm_shapes
from veneer.model.shape import DecoderSpec

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LinearShape:
    """Shape of one linear layer of the decoder, and the rank of its update (0 means none)."""

    path: str
    inputs: int
    outputs: int
    bias: bool
    rank: int
    subtracted: bool = False
    """Whether the update has a subtracted pair (PiSSA, OLoRA)."""
    saved: bool = False
    """Whether the layer is in `modules_to_save`."""
    experts: int = 0
    """Above 0 for a parameter of that many experts. Its weights are counted with the experts' own layers."""
    factors_at: str = ""
    """Prefix of the names of the factors of such a parameter."""

    @property
    def weights(self) -> int:
        """Elements of the weight."""
        return 0 if self.experts else self.inputs * self.outputs

    @property
    def width(self) -> int:
        """Rank of the product, with the subtracted pair."""
        return 2 * self.rank if self.subtracted else self.rank

    @property
    def factors(self) -> int:
        """Elements of A and B."""
        return self.rank * (self.inputs + self.outputs) * max(1, self.experts)


def norm_paths(spec: DecoderSpec) -> list[str]:
    """Paths of all norms."""
    # Sinks are tensors of the attention itself.
    return list(dict.fromkeys(name.rpartition(".")[0] for name in norm_shapes(spec) if not name.endswith(".sinks")))


def by_linear(linear: LinearShape, lora: LoraSpec) -> Iterator[tuple[str, Shape]]:
    """Trained tensors of one linear layer, or of the head, with an adapter."""
    if linear.saved:
        yield from _whole(linear)
        return
    if linear.experts:
        if linear.rank:
            yield f"{linear.factors_at}.{FACTOR_A}", (linear.rank * linear.experts, linear.inputs)
            yield f"{linear.factors_at}.{FACTOR_B}", (linear.outputs, linear.rank * linear.experts)
        return
    if linear.rank:
        if lora.factors is Factors.BOTH:
            yield f"{linear.path}.{FACTOR_A}", (linear.rank, linear.inputs)
        yield f"{linear.path}.{FACTOR_B}", (linear.outputs, linear.rank)
        if lora.factor_bias:
            yield f"{linear.path}.{FACTOR_B_BIAS}", (linear.outputs,)
        if lora.variant is Variant.DORA:
            yield f"{linear.path}.{MAGNITUDE}", (linear.outputs,)
    if linear.bias and (lora.bias is Bias.ALL or (lora.bias is Bias.LORA_ONLY and linear.rank)):
        yield f"{linear.path}.bias", (linear.outputs,)


def by_adapter(
    spec: DecoderSpec, linears: Iterable[LinearShape], lora: LoraSpec, updated: frozenset[str]
) -> Iterator[tuple[str, Shape]]:
    """All trained tensors of an adapter.

    Args:
        spec: specification of the model.
        linears: linear layers, in their order.
        lora: the adapter.
        updated: those of embedding and head that get an update.
    """
    vocab, dim = spec.vocab_size, spec.hidden_size
    if EMBEDDING in updated:
        rank = lora.rank_of(EMBEDDING)
        yield f"{EMBEDDING}.{EMBEDDING_A}", (rank, vocab)
        yield f"{EMBEDDING}.{EMBEDDING_B}", (dim, rank)
        if lora.variant is Variant.DORA:
            yield f"{EMBEDDING}.{MAGNITUDE}", (dim,)
    for linear in linears:
        yield from by_linear(linear, lora)
    if HEAD in updated:
        yield from by_linear(LinearShape(HEAD, dim, vocab, False, lora.rank_of(HEAD)), lora)
    ends: dict[str, Shape] = {f"{path}.weight": (vocab, dim) for path in (EMBEDDING, HEAD)}
    for full_name, shape in (ends | norm_shapes(spec)).items():
        saved = any(names_module(name, full_name.rpartition(".")[0]) for name in lora.modules_to_save)
        if saved or (lora.bias is Bias.ALL and full_name.endswith(".bias")):
            yield full_name, shape
    for path, ids in lora.trainable_tokens.items():
        yield f"{path}.{TOKEN_ROWS}", (len(ids), dim)


def by_full(spec: DecoderSpec, linears: Iterable[LinearShape]) -> Iterator[tuple[str, Shape]]:
    """All weights of the model. A tied weight occurs once."""
    shape = (spec.vocab_size, spec.hidden_size)
    yield f"{EMBEDDING}.weight", shape
    for linear in linears:
        yield from _whole(linear)
    if not spec.tied_head:
        yield f"{HEAD}.weight", shape
    yield from norm_shapes(spec).items()


def _whole(linear: LinearShape) -> Iterator[tuple[str, Shape]]:
    if linear.experts:
        return
    yield f"{linear.path}.weight", (linear.outputs, linear.inputs)
    if linear.bias:
        yield f"{linear.path}.bias", (linear.outputs,)
