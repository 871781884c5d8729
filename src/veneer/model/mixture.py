"""The specification of a mixture of experts: their number, the routing, and what an expert computes.

The feed-forward block of a layer is a router and experts. The router sends each token to `top_k` experts. Experts are
ordinary linear layers at the paths `{layer}.mlp.experts.{number}.gate_proj` (and `up_proj`, `down_proj`).
`veneer.io.experts` translates the names in files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from veneer.errors import ModelError, listing

GATE_UP, DOWN = "gate_up_proj", "down_proj"
"""The two parameters in which transformers holds all experts of a layer. An adapter has factors for each."""


class Routing(Enum):
    """How the scores of the router become the experts' weights."""

    RENORMALISED = "renormalised"
    """Softmax over all experts; the `top_k` largest, divided by their sum (Mixtral: Jiang et al., 2024,
    arXiv:2401.04088)."""
    PLAIN = "plain"
    """Softmax over all experts; the `top_k` largest as they are (Qwen3-MoE without `norm_topk_prob`)."""
    CHOSEN = "chosen"
    """Softmax over only the `top_k` largest scores (gpt-oss)."""


@dataclass(frozen=True, slots=True)
class Clamp:
    """gpt-oss' gated product: (clamp(up) + 1) · g · σ(alpha · g) with g = clamp(gate)."""

    alpha: float
    limit: float
    """gate is cut at it from above, up from both sides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureSpec:
    """Sizes and switches of a mixture's feed-forward blocks."""

    experts: int
    top_k: int
    inner: int
    """Inner width of one expert."""
    routing: Routing
    router: str = "gate"
    """Name of the router module, as in transformers."""
    router_bias: bool = False
    bias: bool = False
    """Whether the experts' linear layers have biases."""
    clamp: Clamp | None = None
    """The gated product of gpt-oss; None means silu(gate) · up."""
    interleaved: bool = False
    """Whether the rows of gate and up alternate in transformers' parameter; otherwise all of gate comes first."""
    dense: frozenset[int] = frozenset()
    """Indices of the layers with an ordinary feed-forward block."""

    def outputs_of(self, parameter: str, hidden: int) -> int:
        """Number of outputs of `GATE_UP` or `DOWN` of one expert."""
        return 2 * self.inner if parameter == GATE_UP else hidden

    def inputs_of(self, parameter: str, hidden: int) -> int:
        """Number of inputs of `GATE_UP` or `DOWN` of one expert."""
        return hidden if parameter == GATE_UP else self.inner

    def layers(self, count: int) -> list[int]:
        """Indices of the layers that have experts, in a model of `count` layers."""
        return [layer for layer in range(count) if layer not in self.dense]

    def parameters(self, count: int) -> list[str]:
        """Paths of the experts' parameters in transformers, in a model of `count` layers."""
        return [f"model.layers.{n}.mlp.experts.{name}" for n in self.layers(count) for name in (GATE_UP, DOWN)]

    def routers(self, count: int) -> list[str]:
        """Paths of the routers, in a model of `count` layers."""
        return [f"model.layers.{layer}.mlp.{self.router}" for layer in self.layers(count)]


def check_mixture(config: Mapping[str, Any], experts: str, inner: str) -> None:
    """Refuse impossible numbers of a mixture.

    Args:
        config: content of config.json.
        experts: key of the number of experts.
        inner: key of the inner width of one expert.

    Raises:
        ModelError: a number is impossible; the message names every such key.
    """
    problems = []
    for key in (experts, inner, "num_experts_per_tok"):
        value = config.get(key)
        if type(value) is not int or value < 1:
            problems.append(f"{key}: {value!r}, must be a whole number of at least 1")
    if not problems and config["num_experts_per_tok"] > config[experts]:
        problems.append(f"num_experts_per_tok: {config['num_experts_per_tok']}, of {config[experts]} experts")
    if problems:
        kind = config.get("model_type")
        raise ModelError(f"the experts in config.json of model_type {kind!r} are not usable:\n{listing(problems)}")
