"""The memory of a mixture's feed-forward blocks.

How tokens spread over experts is not known in advance. The kept memory does not depend on it, since there are tokens ·
top_k rows in total. If the rows of a single expert count (transient operands of a product), the upper bound is that all
tokens go to one expert.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from veneer.adapters.layers.experts import prefixes
from veneer.adapters.spec import LoraSpec
from veneer.model.mixture import DOWN, GATE_UP, MixtureSpec, Routing
from veneer.model.shape import DecoderSpec
from veneer.planning.trained import LinearShape

FLOAT, INDEX = 4, 8
"""Bytes of a float32 number (a routing weight, a norm's rstd, an angle's cosine), and of an int64 token or index."""
ROUTER, ALL_GATE_UP, ALL_DOWN = "router", f"experts.{GATE_UP}", f"experts.{DOWN}"
"""Keys of the router's linear layer, and of the parameters of all experts."""


def has_experts(spec: DecoderSpec, layer: int) -> bool:
    """Whether a layer's feed-forward block is a mixture."""
    return spec.mixture is not None and layer not in spec.mixture.dense


def mixture_linears(
    spec: DecoderSpec, layer: int, lora: LoraSpec | None, adapted: Collection[str]
) -> dict[str, LinearShape]:
    """Router, experts, and the experts' parameters with their updates, for one layer.

    Args:
        spec: specification of a decoder with a mixture.
        layer: index of the layer.
        lora: the adapter, or None.
        adapted: paths that get an update.
    """
    mixture, dim, path = spec.mixture, spec.hidden_size, f"model.layers.{layer}.mlp"
    assert mixture is not None

    def rank(own: str) -> int:
        return lora.rank_of(own) if lora is not None and own in adapted else 0

    router = f"{path}.{mixture.router}"
    linears = {ROUTER: LinearShape(router, dim, mixture.experts, bias=mixture.router_bias, rank=rank(router))}
    sizes = {"gate_proj": (dim, mixture.inner), "up_proj": (dim, mixture.inner), "down_proj": (mixture.inner, dim)}
    for number in range(mixture.experts):
        for leaf, size in sizes.items():
            own = f"experts.{number}.{leaf}"
            linears[own] = LinearShape(f"{path}.{own}", *size, bias=mixture.bias, rank=0)
    updated = prefixes([name for name in (GATE_UP, DOWN) if rank(f"{path}.experts.{name}")])
    for name in (GATE_UP, DOWN):
        linears[f"experts.{name}"] = LinearShape(
            f"{path}.experts.{name}",
            mixture.inputs_of(name, dim),
            mixture.outputs_of(name, dim),
            bias=False,
            rank=rank(f"{path}.experts.{name}"),
            experts=mixture.experts,
            factors_at=f"{path}.experts.{updated.get(name, '')}".rstrip("."),
        )
    return linears


def kept_by_experts(
    spec: DecoderSpec, linears: Mapping[str, LinearShape], tokens: int, size: int, *, learned: bool, full: bool
) -> int:
    """Bytes that the block keeps for backward, without the norm before it.

    Args:
        spec: specification of a decoder with a mixture.
        linears: linear layers of the decoder layer.
        tokens: number of tokens of the micro-batch.
        size: bytes of an activation.
        learned: whether the block's input has a gradient.
        full: whether the block's weights are trained.
    """
    mixture, dim = spec.mixture, spec.hidden_size
    assert mixture is not None
    rows, router = tokens * mixture.top_k, linears[ROUTER]
    total = _routing(mixture, tokens) if learned or router.rank or full else 0
    if full:
        # Inputs and outputs of each expert's products, its output before and after weighting, and the rounded weights.
        total += rows * (INDEX + (dim + 3 * mixture.inner) * size + 2 * FLOAT * dim + FLOAT)
        experts = [linear for key, linear in linears.items() if key.startswith("experts.") and not linear.experts]
        rounded = sum(linear.weights for linear in experts) * size + FLOAT * tokens * dim
        return total + (rounded if size < FLOAT else 0)
    gate_up, down = linears[ALL_GATE_UP].rank, linears[ALL_DOWN].rank
    if router.rank:
        total += tokens * router.rank * FLOAT + (tokens * dim * FLOAT if size < FLOAT else 0)
    if not learned and (gate_up or (router.rank and size == FLOAT)):
        total += tokens * dim * size  # the input of A; where anything before is trained, it is computed again
    if learned or gate_up:
        total += rows * 2 * mixture.inner * size
    elif down or router.rank:
        total += rows * mixture.inner * size
    if learned or gate_up or down or router.rank:
        total += rows * (INDEX + FLOAT)
    return total + rows * (gate_up + down) * size


def _routing(mixture: MixtureSpec, tokens: int) -> int:
    """Bytes that routing keeps: probabilities, indices, order, and operands of the division."""
    rows = tokens * mixture.top_k
    if mixture.routing is Routing.CHOSEN:
        return rows * (FLOAT + 2 * INDEX)
    divided = rows * FLOAT + tokens * FLOAT if mixture.routing is Routing.RENORMALISED else 0
    return tokens * mixture.experts * FLOAT + rows * 2 * INDEX + divided


def block_width(spec: DecoderSpec) -> int:
    """Largest width of a token inside a feed-forward block."""
    if spec.mixture is None:
        return spec.intermediate_size
    widest = spec.mixture.top_k * spec.mixture.inner
    return max(widest, spec.intermediate_size) if spec.mixture.dense else widest


def beside_experts(spec: DecoderSpec, tokens: int, size: int) -> int:
    """Transient bytes in addition to a mixture's rows: float32 sums over experts, and operands of one expert with all
    tokens."""
    if spec.mixture is None:
        return 0
    dim, inner = spec.hidden_size, spec.mixture.inner
    sums = 2 * tokens * dim * FLOAT
    scores = 2 * tokens * (spec.mixture.experts + dim) * FLOAT
    return sums + scores + tokens * (3 * dim + 2 * inner) * size


def share_of_experts(spec: DecoderSpec) -> float:
    """The share of the experts that compute one token."""
    return 1.0 if spec.mixture is None else spec.mixture.top_k / spec.mixture.experts
