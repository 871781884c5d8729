"""What an adapter is, before there is a model: its settings, resolved for any path."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from veneer.adapters.targets import (
    ALL_LINEAR,
    EMBEDDING,
    HEAD,
    by_pattern,
    check_patterns,
    names_path,
    resolve_targets,
)
from veneer.config import LoraSection
from veneer.enums import Bias, Factors, Init, Scaling, Variant
from veneer.errors import AdapterError, listing, nearest

DECOMPOSING = (Init.PISSA, Init.PISSA_FAST, Init.OLORA, Init.EVA, Init.LOFTQ)
"""Starts that are taken from a matrix, which has no more directions than its smaller side."""

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
    fan_in_fan_out: bool = False
    """Whether adapted layers are transformers' Conv1D, whose weight is stored `[in, out]`: for PEFT to know. A and B
    are the same."""

    @classmethod
    def of(cls, section: LoraSection, *, tied: bool) -> LoraSpec:
        """The adapter that a run's configuration asks for; its rank must have been chosen.

        Args:
            section: the settings.
            tied: whether the model's head is its embedding, and goes with its rows.
        """
        assert section.rank != "auto"
        ends = (EMBEDDING,) if tied else (EMBEDDING, HEAD)
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
            trainable_tokens=dict.fromkeys(ends, section.trainable_tokens) if section.trainable_tokens else {},
        )

    def with_rank(self, rank: int) -> LoraSpec:
        """The same with one rank for all updates."""
        return replace(self, rank=rank, rank_pattern={})

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
        if self.target_modules == ALL_LINEAR:
            return [path for path in paths if not any(names_path(name, path) for name in self.modules_to_save)]
        return paths

    def saved(self, modules: Sequence[str], targets: Sequence[str]) -> list[str]:
        """The paths that are trained whole, of a model with these modules, beside updates of `targets`.

        Raises:
            AdapterError: a name means nothing, or what carries an update too; all such are named.
        """
        chosen = [path for path in modules if any(names_path(name, path) for name in self.modules_to_save)]
        leaves = sorted({path.rpartition(".")[2] for path in modules})
        problems = [
            f"{name!r}: no such module{nearest(name, leaves)}"
            for name in self.modules_to_save
            if not any(names_path(name, path) for path in modules)
        ]
        problems += [f"{path}: is in target_modules too; train it one way" for path in chosen if path in targets]
        if problems:
            raise AdapterError(f"modules_to_save cannot be used:\n{listing(problems)}")
        return chosen

    def check_ranks(self, sides: Mapping[str, int]) -> None:
        """Refuse ranks for which the start has too few directions.

        A start that is drawn may have any rank, as in PEFT: beyond a layer's smaller side it only says nothing more.

        Args:
            sides: the smaller side of every target, by its path.

        Raises:
            AdapterError: naming every such layer.
        """
        if self.init not in DECOMPOSING:
            return
        too_wide = [f"{path}: at most {side}" for path, side in sides.items() if self.rank_of(path) > side]
        if too_wide:
            raise AdapterError(
                f"init {self.init.value} has no more directions than a layer's smaller side, which rank {self.rank} "
                f"exceeds; take a smaller rank, or less for these by lora.rank_pattern:\n{listing(too_wide)}"
            )

    def check_tokens(self, vocab: int, *, tied: bool, busy: Collection[str]) -> None:
        """Refuse trained tokens that a model does not have, or whose rows are trained in another way too.

        Args:
            vocab: rows of the embedding.
            tied: whether the head has the embedding's rows: what is trained of one is trained of both.
            busy: paths that carry an update or are trained whole.

        Raises:
            AdapterError: naming every such token and path.
        """
        problems = []
        for path, ids in self.trainable_tokens.items():
            problems += [f"{path}: token {i} is not below the vocabulary's {vocab}" for i in ids if i >= vocab]
            problems += [f"{path}: token {i} is given twice" for i in sorted(set(ids)) if ids.count(i) > 1]
        own = set(self.trainable_tokens) | ({HEAD} if tied and EMBEDDING in self.trainable_tokens else set())
        problems += [
            f"{path}: carries an update or is saved whole; train it one way" for path in sorted(own & set(busy))
        ]
        if problems:
            raise AdapterError(f"trainable_tokens cannot be used:\n{listing(problems)}")
