"""What autograd keeps between forward and backward, byte for byte.

A test compares these sums with what autograd really saves (tests/test_plan.py), so that a change of the decoder that
keeps more, or less, is noticed.
"""

from __future__ import annotations

from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.options import Factors, Variant
from veneer.plan.mixture import has_experts, kept_by_experts
from veneer.plan.setup import Cut, Setup
from veneer.plan.trained import Linear

STATISTIC = 4
"""Bytes of a float32 number: a norm's rstd, a row's log-sum-exp, an angle's cosine."""
INDEX = 8
"""Bytes of an int64 token or place."""


def kept_by_layer(setup: Setup, cut: Cut, layer: int, *, learned: bool) -> int:
    """Bytes that one layer keeps. `learned`: whether anything in front of it is trained, so that its input has a
    gradient.

    Of the norms' outputs and the gated product nothing is kept where they can be made again (`model.recompute.remade`),
    which is everywhere but in front of the first thing that is trained.
    """
    spec, lines, tokens, size = setup.spec, setup.linears[layer], cut.tokens, setup.dtype.itemsize
    wide, inner = tokens * spec.hidden_size * size, tokens * spec.intermediate_size * size
    heads = 2 * spec.num_heads + 2 * spec.num_kv_heads  # q and the output, k and v
    mixed = tokens * spec.num_heads * spec.head_dim * size
    # The norm in front of a stage, its linear layers, what it keeps where something in front of it learns, and what its
    # linear layers keep of their input where nothing does. The attention kernel's output is kept by the kernel, so that
    # the layer behind it adds nothing.
    stages = (
        ("input_layernorm", ("q_proj", "k_proj", "v_proj"), wide + tokens * STATISTIC, wide),
        (None, ("o_proj",), tokens * (heads * spec.head_dim * size + spec.num_heads * STATISTIC), mixed),
        ("post_attention_layernorm", ("gate_proj", "up_proj"), wide + tokens * STATISTIC, wide),
        (None, ("down_proj",), 2 * inner, inner),
    )
    learned = learned or setup.full
    total = 0
    experts = has_experts(spec, layer)
    for norm, leaves, kept, own_input in stages[:2] if experts else stages:
        learned = learned or (norm is not None and setup.saves(f"model.layers.{layer}.{norm}"))
        ranked = any(lines[leaf].rank for leaf in leaves)
        if learned:
            total += kept
        elif (ranked and _keeps_inputs(setup) and not setup.lora.dropout) or any(lines[leaf].saved for leaf in leaves):
            total += own_input
        total += sum(_by_linear(setup, lines[leaf], tokens, learned=learned) for leaf in leaves)
        learned = learned or ranked or any(setup.learns(lines[leaf]) for leaf in leaves)
    if not experts:
        return total
    learned = learned or setup.saves(f"model.layers.{layer}.post_attention_layernorm")
    total += wide + tokens * STATISTIC if learned else 0
    return total + kept_by_experts(spec, lines, tokens, size, learned=learned, full=setup.full)


def _keeps_inputs(setup: Setup) -> bool:
    """Whether the update's input is needed in backward: for A's gradient."""
    return setup.lora.factors is Factors.BOTH


def _by_linear(setup: Setup, line: Linear, tokens: int, *, learned: bool) -> int:
    """x Aᵀ of an adapter, with dropout its input and, where that has a gradient, the mask; under full fine-tuning in
    bfloat16 the weight as it was rounded for the product."""
    size = setup.dtype.itemsize
    if setup.full or line.saved:
        return line.weights * size if size < 4 else 0
    if not line.rank:
        return 0
    copies = (1 if learned else 0) + (1 if _keeps_inputs(setup) else 0)
    dropped = tokens * line.inputs * size * copies if setup.lora.dropout else 0
    turned = tokens * line.outputs * size + 2 * STATISTIC * line.outputs if setup.lora.variant is Variant.DORA else 0
    return tokens * line.width * size + dropped + turned + _joined(line)


def _joined(line: Linear) -> int:
    """The pairs of factors, joined for the product with the pair that is subtracted."""
    return STATISTIC * line.width * (line.inputs + line.outputs) if line.subtracted else 0


def kept_outside(setup: Setup, cut: Cut) -> int:
    """Bytes kept in front of the layers and behind them: angles, the last norm's input, the loss's own gradient."""
    spec, size = setup.spec, setup.dtype.itemsize
    total = cut.tokens * spec.head_dim * STATISTIC  # cosine and sine of half as many angles
    total += cut.tokens * (spec.hidden_size * size + STATISTIC)  # the last norm
    total += cut.supervised * (INDEX + spec.hidden_size * size)
    if setup.full:
        total += cut.tokens * INDEX  # the embedding's tokens
    if setup.trained_head:
        total += setup.head_weights * STATISTIC  # its gradient
    return total + _kept_in_front(setup, cut) + _kept_by_head(setup)


def _kept_in_front(setup: Setup, cut: Cut) -> int:
    """What an update of the embedding keeps: tokens, their rows of A, and B; or what trained rows do."""
    if setup.trained_tokens:
        return cut.tokens * (INDEX + 1)
    if EMBEDDING in setup.saved:
        return cut.tokens * INDEX
    if EMBEDDING not in setup.updated:
        return 0
    dim = setup.spec.hidden_size
    turned = (cut.tokens * dim + 2 * dim) * STATISTIC if setup.lora.variant is Variant.DORA else 0
    return cut.tokens * (INDEX + setup.lora.rank_of(EMBEDDING) * STATISTIC) + turned


def _kept_by_head(setup: Setup) -> int:
    """Gradients of what a head has beside its weight: they are formed with the loss."""
    if not setup.scored:
        return 0
    spec, lora, total = setup.spec, setup.lora, 0
    if HEAD in setup.updated:
        inputs = spec.hidden_size if lora.factors is Factors.BOTH else 0
        total += lora.rank_of(HEAD) * (spec.vocab_size + inputs)
        total += spec.vocab_size if lora.variant is Variant.DORA else 0
    rows = lora.trainable_tokens.get(HEAD, lora.trainable_tokens.get(EMBEDDING, ()) if spec.tied_head else ())
    return (total + len(rows) * spec.hidden_size) * STATISTIC


def kept_activations(setup: Setup, cut: Cut, *, recompute: bool) -> int:
    """Bytes kept from forward to backward, all layers; with recomputation each layer keeps its input alone."""
    learned, total = setup.learns_in_front, kept_outside(setup, cut)
    for number, lines in enumerate(setup.linears):
        adapted = any(setup.learns(line) for line in lines.values()) or setup.saves(
            f"model.layers.{number}.input_layernorm", f"model.layers.{number}.post_attention_layernorm"
        )
        if not recompute:
            total += kept_by_layer(setup, cut, number, learned=learned)
        elif learned or adapted or setup.full:
            total += cut.tokens * setup.spec.hidden_size * setup.dtype.itemsize
        learned = learned or adapted
    return total


def largest_layer(setup: Setup, cut: Cut) -> int:
    """Bytes that one layer keeps while it is computed again."""
    return max(kept_by_layer(setup, cut, number, learned=number > 0) for number in range(min(2, setup.spec.num_layers)))
