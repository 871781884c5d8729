"""What an adapter is, before there is a model: its settings, resolved for any path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from veneer.adapters.targets import ALL_LINEAR, EMBEDDING, by_pattern, check_patterns, resolve_targets
from veneer.config import Bias, Factors, Init, LoraSection, Scaling, Variant

Tokens = Mapping[str, tuple[int, ...]]
"""Ids of the trained tokens by the path of the module that holds them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSpec:
    """What an adapter is: the part of PEFT's `LoraConfig` that veneer trains."""

    rank: int
    alpha: float
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = ALL_LINEAR
    exclude_modules: str | tuple[str, ...] = ()
    layers_to_transform: tuple[int, ...] | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    scaling: Scaling = Scaling.STANDARD
    variant: Variant = Variant.LORA
    init: Init = Init.KAIMING
    factors: Factors = Factors.BOTH
    bias: Bias = Bias.NONE
    factor_bias: bool = False
    """Whether B has a bias, scaled with the update (PEFT's `lora_bias`)."""
    modules_to_save: tuple[str, ...] = ()
    tied_modules: bool = False
    """Whether an embedding in `modules_to_save` is a tied head's weight too (PEFT's `ensure_weight_tying`)."""
    trainable_tokens: Tokens = field(default_factory=dict)

    @classmethod
    def of(cls, section: LoraSection) -> LoraSpec:
        """The adapter that a run's configuration asks for."""
        return cls(
            rank=section.rank,
            alpha=section.alpha,
            dropout=section.dropout,
            target_modules=section.target_modules,
            exclude_modules=section.exclude_modules,
            layers_to_transform=section.layers_to_transform,
            rank_pattern=section.rank_pattern,
            alpha_pattern=section.alpha_pattern,
            scaling=section.scaling,
            variant=section.variant,
            init=section.init,
            factors=section.factors,
            bias=section.bias,
            modules_to_save=section.modules_to_save,
            # A tied model stays tied: an embedding that is trained alone would part it from its head silently.
            tied_modules=True,
            trainable_tokens={EMBEDDING: section.trainable_tokens} if section.trainable_tokens else {},
        )

    @property
    def scale(self) -> float:
        """The factor of the update where no pattern says otherwise."""
        return self._scale(self.alpha, self.rank)

    def rank_of(self, path: str) -> int:
        """The rank of the update at a path."""
        return by_pattern(self.rank_pattern, path, self.rank)

    def scale_of(self, path: str) -> float:
        """The factor of the update at a path: alpha / rank, or alpha / √rank (rsLoRA: Kalajdzievski, 2023,
        arXiv:2312.03732)."""
        return self._scale(by_pattern(self.alpha_pattern, path, self.alpha), self.rank_of(path))

    def _scale(self, alpha: float, rank: int) -> float:
        return alpha / (math.sqrt(rank) if self.scaling is Scaling.RSLORA else rank)

    def targets(self, linears: Sequence[str]) -> list[str]:
        """The paths that carry an update, of a model with these linear layers.

        Raises:
            AdapterError: a setting names what the model does not have; all such are named.
        """
        paths = resolve_targets(linears, self.target_modules, self.exclude_modules, self.layers_to_transform)
        check_patterns(self.rank_pattern, paths, "rank_pattern")
        check_patterns(self.alpha_pattern, paths, "alpha_pattern")
        return paths
