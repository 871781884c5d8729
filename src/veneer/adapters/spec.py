"""`LoraSpec`: the settings of an adapter, resolved for any path, before there is a model."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from veneer.adapters.targets import (
    ALL_LINEAR,
    EMBEDDING,
    HEAD,
    check_patterns,
    is_router,
    names_module,
    resolve_targets,
    unusable,
    value_of_pattern,
)
from veneer.config import LoraSection
from veneer.enums import Bias, Factors, Init, Scaling, Task, Variant
from veneer.errors import AdapterError, listing, nearest

DECOMPOSING = (Init.PISSA, Init.PISSA_FAST, Init.OLORA, Init.EVA, Init.LOFTQ)
"""Initialisations by a decomposition of a matrix. Their rank is at most the smaller side of the matrix."""

Tokens = Mapping[str, tuple[int, ...]]
"""Ids of the trained tokens, by the path of the embedding or head."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSpec:
    """Settings of an adapter: the part of PEFT's `LoraConfig` that veneer trains."""

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
    """Whether an embedding in `modules_to_save` stays tied to the head (PEFT's `ensure_weight_tying`)."""
    trainable_tokens: Tokens = field(default_factory=dict)
    task: Task = Task.CAUSAL_LM
    """What the model computes from a text; for SEQ_CLS the adapter has a score head."""
    fan_in_fan_out: bool = False
    """Whether adapted layers are transformers' Conv1D, whose weight is stored `[in, out]`. Only PEFT needs this; A and
    B do not depend on it."""
    mixture: bool = False
    """Whether the model is a mixture, in which PEFT takes names of dense feed-forward layers for those of experts. Only
    PEFT needs this."""

    @classmethod
    def of(cls, section: LoraSection, *, tied: bool, keeps_tie: bool = True) -> LoraSpec:
        """The adapter of a run's configuration, whose rank must be a number.

        Args:
            section: the section `lora` of the configuration.
            tied: whether the model's head is tied to its embedding, so that trained tokens are one set of rows.
            keeps_tie: whether such a head stays tied if the embedding is in `modules_to_save`. Training only the
                embedding would silently untie it.
        """
        assert section.rank != "auto"
        ends = (EMBEDDING,) if tied else (EMBEDDING, HEAD)
        spec = cls(
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
            tied_modules=keeps_tie,
            trainable_tokens=dict.fromkeys(ends, section.trainable_tokens) if section.trainable_tokens else {},
        )
        return spec.on_tied_model() if tied else spec

    def on_tied_model(self) -> LoraSpec:
        """The specification on a model whose head is tied to its embedding.

        If both are in `modules_to_save` and stay tied, the embedding's name means the shared weight.
        """
        if not self.tied_modules or not any(names_module(name, EMBEDDING) for name in self.modules_to_save):
            return self
        return replace(self, modules_to_save=tuple(name for name in self.modules_to_save if name != HEAD))

    def with_rank(self, rank: int) -> LoraSpec:
        """A copy with one rank for all updates."""
        return replace(self, rank=rank, rank_pattern={})

    @property
    def scale(self) -> float:
        """The scale of an update to which no pattern applies."""
        return self._scale(self.alpha, self.rank)

    def rank_of(self, path: str) -> int:
        """The rank of the update at a path."""
        return value_of_pattern(self.rank_pattern, path, self.rank)

    def scale_of(self, path: str) -> float:
        """The scale of the update at a path: alpha / rank, or alpha / √rank (rsLoRA: Kalajdzievski, 2023,
        arXiv:2312.03732)."""
        return self._scale(value_of_pattern(self.alpha_pattern, path, self.alpha), self.rank_of(path))

    def _scale(self, alpha: float, rank: int) -> float:
        return alpha / (math.sqrt(rank) if self.scaling is Scaling.RSLORA else rank)

    def targets(self, linears: Sequence[str]) -> list[str]:
        """The paths that get an update in a model with these linear layers.

        Raises:
            AdapterError: settings contain names that the model does not have; the message lists all of them. Or a
                regular expression is invalid, or does not end.
        """
        problems = self.unusable_expressions([EMBEDDING, *linears, HEAD])
        if problems:
            raise AdapterError(f"the adapter's settings have expressions that cannot be used:\n{listing(problems)}")
        paths = resolve_targets(linears, self.target_modules, self.exclude_modules, self.layers_to_transform)
        check_patterns(self.rank_pattern, paths, "rank_pattern")
        check_patterns(self.alpha_pattern, paths, "alpha_pattern")
        if self.target_modules == ALL_LINEAR:
            return [path for path in paths if not any(names_module(name, path) for name in self.modules_to_save)]
        return paths

    def unusable_expressions(self, paths: Iterable[str]) -> tuple[str, ...]:
        """The problems of the regular expressions in these settings, tried on the paths that they are matched with."""
        whole = tuple(names for names in (self.target_modules, self.exclude_modules) if isinstance(names, str))
        return unusable(whole, tuple(sorted({*self.rank_pattern, *self.alpha_pattern})), tuple(paths))

    def saved(self, modules: Sequence[str], targets: Sequence[str]) -> list[str]:
        """The paths of `modules_to_save` in a model with these modules and with updates of `targets`.

        Raises:
            AdapterError: a name matches no module, a router, or a module that also gets an update; the message lists
                all of them.
        """
        chosen = [path for path in modules if any(names_module(name, path) for name in self.modules_to_save)]
        leaves = sorted({path.rpartition(".")[2] for path in modules})
        problems = [
            f"{name!r}: no such module{nearest(name, leaves)}"
            for name in self.modules_to_save
            if not any(names_module(name, path) for path in modules)
        ]
        problems += [
            f"{path}: is a mixture's router, which can only be trained by an update; name it in target_modules instead"
            for path in chosen
            if is_router(path)
        ]
        problems += [f"{path}: is in target_modules too; train it one way" for path in chosen if path in targets]
        if problems:
            raise AdapterError(f"modules_to_save cannot be used:\n{listing(problems)}")
        return chosen

    def check_ranks(self, sizes: Mapping[str, int]) -> None:
        """Refuse ranks that are too large for an initialisation by decomposition.

        With a random initialisation any rank is possible, as in PEFT.

        Args:
            sizes: the smaller of the two sizes of every target, by path.

        Raises:
            AdapterError: a rank is too large; the message names every such layer.
        """
        if self.init not in DECOMPOSING:
            return
        ranks = {path: self.rank_of(path) for path in sizes}
        too_wide = [f"{path}: rank {ranks[path]}, at most {size}" for path, size in sizes.items() if ranks[path] > size]
        if too_wide:
            raise AdapterError(
                f"init {self.init.value} decomposes a layer's weight, whose smaller size its rank may not exceed; use "
                f"a smaller rank, or give these layers a smaller one by lora.rank_pattern:\n{listing(too_wide)}"
            )

    def check_tokens(self, vocab: int, *, tied: bool, busy: Collection[str]) -> None:
        """Refuse trained tokens that the model does not have, or whose rows are trained in another way too.

        Args:
            vocab: number of rows of the embedding.
            tied: whether the head is tied to the embedding.
            busy: paths that get an update or are in `modules_to_save`.

        Raises:
            AdapterError: there are such tokens; the message names every token and path.
        """
        problems = []
        for path, ids in self.trainable_tokens.items():
            problems += [f"{path}: token {i} is not below the vocabulary's {vocab}" for i in ids if i >= vocab]
            problems += [f"{path}: token {i} is below 0" for i in ids if i < 0]
            problems += [f"{path}: token {i} is given twice" for i in sorted(set(ids)) if ids.count(i) > 1]
        own = set(self.trainable_tokens) | ({HEAD} if tied and EMBEDDING in self.trainable_tokens else set())
        whole = set(busy) | ({HEAD} if tied and self.tied_modules and EMBEDDING in busy else set())
        problems += [f"{path}: carries an update or is saved whole; train it one way" for path in sorted(own & whole)]
        if problems:
            raise AdapterError(f"trainable_tokens cannot be used:\n{listing(problems)}")
