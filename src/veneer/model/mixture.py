"""What a mixture of experts is made of: how many, how they are chosen, what one computes.

The feed-forward block of a layer is then a router and experts, of which each token meets `top_k`. Experts are linear
layers as any others, by paths `{layer}.mlp.experts.{number}.gate_proj` (and `up_proj`, `down_proj`), however the files
hold them; `veneer.io.experts` knows the spellings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from veneer.errors import ModelError, listing

GATE_UP, DOWN = "gate_up_proj", "down_proj"
"""The two parameters that transformers holds for all experts of a layer, and that an adapter has factors for."""


class Routing(Enum):
    """How the scores of the router become the experts' weights."""

    RENORMALISED = "renormalised"
    """Softmax over all experts, the largest of it, divided by their sum (Mixtral: Jiang et al., 2024,
    arXiv:2401.04088)."""
    PLAIN = "plain"
    """Softmax over all experts, the largest of it (Qwen3-MoE without `norm_topk_prob`)."""
    CHOSEN = "chosen"
    """Softmax over the largest scores alone (gpt-oss)."""


@dataclass(frozen=True, slots=True)
class Clamp:
    """gpt-oss' gated product: (clamp(up) + 1) · g · σ(alpha · g) with g = clamp(gate)."""

    alpha: float
    limit: float
    """gate is cut at it from above, up from both sides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureSpec:
    """Shapes and switches of a mixture's feed-forward blocks."""

    experts: int
    top_k: int
    inner: int
    """Width of one expert."""
    routing: Routing
    router: str = "gate"
    """Name of the router in its block, as in transformers."""
    router_bias: bool = False
    bias: bool = False
    """Whether the experts' linear layers have biases."""
    clamp: Clamp | None = None
    """How the product is gated; None means silu(gate) · up."""
    interleaved: bool = False
    """Whether gate and up alternate, row by row, in the parameter that transformers holds; else gate stands first."""
    dense: frozenset[int] = frozenset()
    """Numbers of the layers whose feed-forward block is an ordinary one."""

    def outputs_of(self, parameter: str, hidden: int) -> int:
        """Outputs of `GATE_UP` or `DOWN` of one expert."""
        return 2 * self.inner if parameter == GATE_UP else hidden

    def inputs_of(self, parameter: str, hidden: int) -> int:
        """Inputs of `GATE_UP` or `DOWN` of one expert."""
        return hidden if parameter == GATE_UP else self.inner

    def layers(self, count: int) -> list[int]:
        """Numbers of the layers that have experts, of `count` layers."""
        return [layer for layer in range(count) if layer not in self.dense]

    def parameters(self, count: int) -> list[str]:
        """Paths of the experts' parameters as transformers holds them, of `count` layers."""
        return [f"model.layers.{n}.mlp.experts.{name}" for n in self.layers(count) for name in (GATE_UP, DOWN)]

    def routers(self, count: int) -> list[str]:
        """Paths of the routers of `count` layers."""
        return [f"model.layers.{layer}.mlp.{self.router}" for layer in self.layers(count)]


def check_mixture(config: Mapping[str, Any], experts: str, inner: str) -> None:
    """Refuse a mixture whose numbers cannot be.

    Args:
        config: config.json.
        experts: the setting that holds the number of experts.
        inner: the setting that holds the width of one.

    Raises:
        ModelError: naming every such setting.
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
