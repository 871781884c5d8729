"""The memory that autograd keeps between forward and backward, byte for byte.

A test compares these sums with what autograd really saves (tests/planning/test_activations.py), so that a change of the
decoder that keeps more, or less, is noticed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.enums import Factors, Variant
from veneer.gpu.attention import flash_takes_heads
from veneer.model.shape import DecoderSpec, Norm, NormPlacement, Projections, QkNorm
from veneer.native.arguments import DTYPE_NUMBERS
from veneer.native.attention import MIN_DIM_MULTIPLE
from veneer.native.library import kernels
from veneer.planning.batch_shape import BatchShape
from veneer.planning.mixture import FLOAT, INDEX, has_experts, kept_by_experts
from veneer.planning.setup import Setup
from veneer.planning.trained import LinearShape

FORMULA = 256
"""The most bytes that a document's numbers take in a formula over whole answers."""
FLASH_STATE = 16
"""Bytes of a generator's state that FlashAttention keeps."""


@dataclass(frozen=True, slots=True)
class _Stage:
    """A part of a layer, from one norm or product to the next."""

    norms: tuple[str, ...]
    """Names of the norms before its linear layers."""
    leaves: tuple[str, ...]
    """Last names of its linear layers."""
    kept: int
    """Bytes that it keeps if anything before it is trained."""
    own_input: int = 0
    """Bytes of input that its linear layers keep if nothing before it is trained."""


def _stages(setup: Setup, tokens: int, keys: int, *, experts: bool, joined: bool = False) -> list[_Stage]:
    """The stages of a layer. For models with other norms than Llama's the sums are upper bounds.

    In a mixture, what follows the norm before the experts is left out (`kept_by_experts`). The attention kernel keeps
    its own output, so the next layer adds nothing, unless there are several blocks whose outputs are `joined`. `keys`
    is the number of keys that the kernel reads (`attended_keys`).
    """
    spec, size = setup.spec, setup.dtype.itemsize
    wide, inner = tokens * spec.hidden_size * size, tokens * spec.intermediate_size * size
    mixed = tokens * spec.num_heads * spec.head_dim * size
    fused, placement = spec.projections is Projections.FUSED, spec.norm_placement
    first = ("qkv_proj",) if fused else ("q_proj", "k_proj", "v_proj")
    gates = ("gate_up_proj",) if fused else ("gate_proj", "up_proj")
    norm = wide + tokens * _statistics(spec)
    before, between, behind = placement.norms[:1], placement.norms[1:2], placement.norms[-1:]
    attention = _kept_by_attention(setup, tokens, keys)
    if spec.head_dim % MIN_DIM_MULTIPLE:
        attention *= 2  # torch's kernel keeps padded copies
    if joined:
        attention += mixed  # the outputs of all blocks, end to end
    attention += _kept_by_head_norms(setup, tokens)
    own = () if spec.qk_norm is QkNorm.NONE else tuple(f"self_attn.{name}" for name in spec.qk_norm_names)
    mix, down = _Stage(own, ("o_proj",), attention, mixed), _Stage((), ("down_proj",), 2 * inner, inner)
    if placement is NormPlacement.POST:
        read = [_Stage((), first, wide, wide), mix, _Stage(before, gates, norm + wide, wide), down]
        return [*read, _Stage(behind, (), norm)]
    front = [_Stage(before, first, norm, wide), mix]
    if placement is NormPlacement.PARALLEL:
        return [*front, _Stage((), gates, 0, wide), down]
    if placement is NormPlacement.SANDWICH:
        middle = [_Stage(between, (), norm), _Stage(placement.norms[2:3], gates, norm, wide)]
        return [*front, *middle, down, _Stage(behind, (), norm)]
    if experts:
        return [*front, _Stage(between, (), norm)]
    return [*front, _Stage(between, gates, norm, wide), down]


def attended_keys(setup: Setup, batch: BatchShape) -> int:
    """The number of keys that attention reads. On a GPU it reads a shared beginning once more for each document; the
    filler of a micro-batch counts as a document."""
    return batch.tokens + (0 if setup.device == "cpu" else batch.shared * (batch.documents + 1))


def by_flash(setup: Setup) -> bool:
    """Whether attention on a GPU is one call for all documents (`veneer.gpu.attention`).

    Float16 is for cards that FlashAttention 2 does not support. On other cards a plan overestimates it.
    """
    takes = setup.dtype != torch.float16 and flash_takes_heads(setup.spec.head_dim, setup.dtype)
    return setup.device != "cpu" and takes


def _kept_by_attention(setup: Setup, tokens: int, keys: int) -> int:
    """Bytes of queries, the output, keys and values, and a number for each row of scores."""
    spec, size = setup.spec, setup.dtype.itemsize
    if setup.device == "cpu" or by_flash(setup):
        heads = tokens * 2 * spec.num_heads + keys * 2 * spec.num_kv_heads
        state = 0 if setup.device == "cpu" else FLASH_STATE
        return heads * spec.head_dim * size + tokens * spec.num_heads * FLOAT + state
    # One call for each document: its queries are read with the beginning before them, and its keys are repeated for all
    # heads. All outputs follow, end to end.
    heads = (4 * keys + tokens) * spec.num_heads
    return heads * spec.head_dim * size + keys * spec.num_heads * FLOAT


def _statistics(spec: DecoderSpec) -> int:
    """Bytes that a norm keeps for each row in addition to the row."""
    return FLOAT * (2 if spec.norm in (Norm.LAYER, Norm.LAYER_BIAS) else 1)


def _kept_by_head_norms(setup: Setup, tokens: int) -> int:
    """Bytes kept by QK norms: queries and keys before the norm, and statistics of their rows."""
    spec = setup.spec
    if spec.qk_norm is QkNorm.NONE:
        return 0
    heads = spec.num_heads + spec.num_kv_heads
    rows = 2 if spec.qk_norm is QkNorm.WIDTH else heads
    statistics = _statistics(spec)
    return tokens * (heads * spec.head_dim * setup.dtype.itemsize + rows * statistics)


def by_compiled_kernel(setup: Setup) -> bool:
    """Whether a compiled kernel computes attention, which requires one for the run's dtype."""
    return setup.device == "cpu" and kernels() is not None and setup.spec.head_dim % MIN_DIM_MULTIPLE == 0


def has_kernels(setup: Setup) -> bool:
    """Whether there are compiled kernels for the run's dtype on its device."""
    return setup.device == "cpu" and kernels() is not None and setup.dtype in DTYPE_NUMBERS


def blocks_are_joined(setup: Setup, batch: BatchShape) -> bool:
    """Whether the outputs of attention for several blocks are joined end to end afterwards. The compiled kernel writes
    them in place."""
    return batch.blocks > 1 and not (by_compiled_kernel(setup) and has_kernels(setup))


def kept_by_layer(setup: Setup, batch: BatchShape, layer: int, *, learned: bool) -> int:
    """Bytes that one layer keeps.

    Outputs of norms and the gated product are not kept if they can be computed again
    (`model.recompute.recomputed_in_backward`). That is possible everywhere except before the first trained module.
    `learned` says whether anything before the layer is trained, so that its input has a gradient.
    """
    linears, tokens = setup.linears[layer], batch.tokens
    learned = learned or setup.full
    total, experts = 0, has_experts(setup.spec, layer)
    keys, joined = attended_keys(setup, batch), blocks_are_joined(setup, batch)
    for stage in _stages(setup, tokens, keys, experts=experts, joined=joined):
        learned = learned or setup.learns_norm(*(f"model.layers.{layer}.{norm}" for norm in stage.norms))
        ranked = any(linears[leaf].rank for leaf in stage.leaves)
        if learned:
            total += stage.kept
        elif (ranked and _keeps_inputs(setup) and not setup.lora.dropout) or any(
            linears[leaf].saved for leaf in stage.leaves
        ):
            total += stage.own_input
        total += sum(_by_linear(setup, linears[leaf], tokens, learned=learned) for leaf in stage.leaves)
        learned = learned or ranked or any(setup.learns(linears[leaf]) for leaf in stage.leaves)
    if experts:
        total += kept_by_experts(setup.spec, linears, tokens, setup.dtype.itemsize, learned=learned, full=setup.full)
    return total


def _keeps_inputs(setup: Setup) -> bool:
    """Whether backward needs the input of an update, for the gradient of A."""
    return setup.lora.factors is Factors.BOTH


def _by_linear(setup: Setup, linear: LinearShape, tokens: int, *, learned: bool) -> int:
    """Bytes kept by one linear layer.

    An adapter keeps x Aᵀ, and with dropout its input and, if that has a gradient, the mask. Full fine-tuning in
    bfloat16 keeps the rounded weight.
    """
    size = setup.dtype.itemsize
    if setup.full or linear.saved:
        return linear.weights * size if size < 4 else 0
    if not linear.rank:
        return 0
    copies = (1 if learned else 0) + (1 if _keeps_inputs(setup) else 0)
    dropped = tokens * linear.inputs * size * copies if setup.lora.dropout else 0
    turned = tokens * linear.outputs * size + 2 * FLOAT * linear.outputs if setup.lora.variant is Variant.DORA else 0
    return tokens * linear.width * size + dropped + turned + _joined(linear)


def _joined(linear: LinearShape) -> int:
    """Bytes of A and B joined with the subtracted pair."""
    return FLOAT * linear.width * (linear.inputs + linear.outputs) if linear.subtracted else 0


def kept_outside(setup: Setup, batch: BatchShape) -> int:
    """Bytes kept before and after the layers: rotary angles, the last norm's input, the gradient of the loss."""
    spec, size = setup.spec, setup.dtype.itemsize
    # Cosine and sine of half as many angles, of each kind of positions.
    total = sum(batch.tokens * rope.turned(spec.head_dim) * FLOAT for rope in spec.ropes)
    total += batch.tokens * (spec.hidden_size * size + _statistics(spec))  # the last norm
    total += batch.supervised * (INDEX + spec.hidden_size * size)
    if setup.row_losses:
        # The targets, the document of each, and some numbers a document.
        total += batch.supervised * 2 * INDEX + FORMULA * batch.documents
    if setup.full:
        total += batch.tokens * INDEX  # the embedding's tokens
    if setup.trained_head:
        total += setup.head_weights * FLOAT  # its gradient
    return total + _kept_in_front(setup, batch) + _kept_by_head(setup)


def _kept_in_front(setup: Setup, batch: BatchShape) -> int:
    """Bytes kept by an update of the embedding (token ids, their rows of A, and B), or by trained rows."""
    if setup.trained_tokens:
        return batch.tokens * (INDEX + 1)
    if EMBEDDING in setup.saved:
        return batch.tokens * INDEX
    if EMBEDDING not in setup.updated:
        return 0
    dim = setup.spec.hidden_size
    turned = (batch.tokens * dim + 2 * dim) * FLOAT if setup.lora.variant is Variant.DORA else 0
    return batch.tokens * (INDEX + setup.lora.rank_of(EMBEDDING) * FLOAT) + turned


def _kept_by_head(setup: Setup) -> int:
    """Bytes of gradients of a head's update or trained rows, which are computed together with the loss."""
    if not setup.head_is_adapted:
        return 0
    spec, lora, total = setup.spec, setup.lora, 0
    if HEAD in setup.updated:
        inputs = spec.hidden_size if lora.factors is Factors.BOTH else 0
        total += lora.rank_of(HEAD) * (spec.vocab_size + inputs)
        total += spec.vocab_size if lora.variant is Variant.DORA else 0
    rows = lora.trainable_tokens.get(HEAD, lora.trainable_tokens.get(EMBEDDING, ()) if spec.tied_head else ())
    return (total + len(rows) * spec.hidden_size) * FLOAT


def kept_activations(setup: Setup, batch: BatchShape, *, recompute: bool) -> int:
    """Bytes kept from forward to backward by all layers. With recomputation each layer keeps only its input."""
    learned, total = setup.trains_before_layers, kept_outside(setup, batch)
    for number, linears in enumerate(setup.linears):
        stages = _stages(setup, 0, 0, experts=has_experts(setup.spec, number))
        norms = (f"model.layers.{number}.{norm}" for stage in stages for norm in stage.norms)
        adapted = any(setup.learns(linear) for linear in linears.values()) or setup.learns_norm(*norms)
        if not recompute:
            total += kept_by_layer(setup, batch, number, learned=learned)
        elif learned or adapted or setup.full:
            total += batch.tokens * setup.spec.hidden_size * setup.dtype.itemsize
        learned = learned or adapted
    return total


def largest_layer(setup: Setup, batch: BatchShape) -> int:
    """Bytes that one layer keeps while it is computed again."""
    return max(
        kept_by_layer(setup, batch, number, learned=number > 0) for number in range(min(2, setup.spec.num_layers))
    )
