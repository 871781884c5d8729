"""What autograd keeps between forward and backward, byte for byte.

A test compares these sums with what autograd really saves (tests/test_plan.py), so that a change of the decoder that
keeps more, or less, is noticed.
"""

from __future__ import annotations

from veneer.plan.setup import Cut, Linear, Setup

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
    # What a stage keeps where something in front of it learns, and what its linear layers keep of their input where
    # nothing does; the attention kernel's output is kept by the kernel, so that the layer behind it adds nothing.
    stages = (
        (("q_proj", "k_proj", "v_proj"), wide + tokens * STATISTIC, wide),
        (("o_proj",), tokens * (heads * spec.head_dim * size + spec.num_heads * STATISTIC), mixed),
        (("gate_proj", "up_proj"), wide + tokens * STATISTIC, wide),
        (("down_proj",), 2 * inner, inner),
    )
    learned = learned or setup.full
    total = 0
    for leaves, kept, own_input in stages:
        ranked = any(lines[leaf].rank for leaf in leaves)
        if learned:
            total += kept
        elif ranked and not setup.dropout:
            total += own_input
        total += sum(_by_linear(setup, lines[leaf], tokens, learned=learned) for leaf in leaves)
        learned = learned or ranked
    return total


def _by_linear(setup: Setup, line: Linear, tokens: int, *, learned: bool) -> int:
    """x Aᵀ of an adapter, with dropout its input and, where that has a gradient, the mask; under full fine-tuning in
    bfloat16 the weight as it was rounded for the product."""
    size = setup.dtype.itemsize
    if setup.full:
        return line.weights * size if size < 4 else 0
    if not line.rank:
        return 0
    dropped = tokens * line.inputs * size * (2 if learned else 1) if setup.dropout else 0
    return tokens * line.rank * size + dropped


def kept_outside(setup: Setup, cut: Cut) -> int:
    """Bytes kept in front of the layers and behind them: angles, the last norm's input, the loss's own gradient."""
    spec, size = setup.spec, setup.dtype.itemsize
    total = cut.tokens * spec.head_dim * STATISTIC  # cosine and sine of half as many angles
    total += cut.tokens * (spec.hidden_size * size + STATISTIC)  # the last norm
    total += cut.supervised * (INDEX + spec.hidden_size * size)
    if setup.full:
        total += cut.tokens * INDEX + setup.head_weights * STATISTIC  # the embedding's tokens, the head's gradient
    return total


def kept_activations(setup: Setup, cut: Cut, *, recompute: bool) -> int:
    """Bytes kept from forward to backward, all layers; with recomputation each layer keeps its input alone."""
    learned, total = False, kept_outside(setup, cut)
    for number, lines in enumerate(setup.linears):
        adapted = any(line.rank for line in lines.values())
        if not recompute:
            total += kept_by_layer(setup, cut, number, learned=learned)
        elif learned or adapted or setup.full:
            total += cut.tokens * setup.spec.hidden_size * setup.dtype.itemsize
        learned = learned or adapted
    return total


def largest_layer(setup: Setup, cut: Cut) -> int:
    """Bytes that one layer keeps while it is computed again."""
    return max(kept_by_layer(setup, cut, number, learned=number > 0) for number in range(min(2, setup.spec.num_layers)))
