"""The interface of what computes the tokens of a step: the part of the engine that knows the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from torch import Tensor

from veneer.errors import VeneerError
from veneer.generation.blocks import BlockGroup, BlockId
from veneer.generation.request import TokenLogprob
from veneer.generation.sequence import Placement, Work
from veneer.model.language import LanguageModel
from veneer.native.factors import FactorTable


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedAdapter:
    """An adapter in memory, in the form in which the engine computes it.

    Exactly one of `factors` and `model` is set.
    """

    key: bytes
    """Digest of the adapter's content and scales. What is cached under it is valid only for equal content."""
    nbytes: int
    """The bytes that it needs in addition to the base."""
    factors: FactorTable | None = None
    """The factors, for the compiled step, which computes several adapters at once."""
    model: LanguageModel | None = None
    """The base's modules with those of the adapter in their places, for an adapter that the compiled step does not
    support. Its sequences are computed in separate batches."""


class AdapterLease(Protocol):
    """The right to use one version of an adapter until `release`, regardless of what is loaded or unloaded
    meanwhile."""

    @property
    def adapter(self) -> LoadedAdapter | None:
        """The adapter, or None until it is in memory."""
        ...

    @property
    def error(self) -> VeneerError | None:
        """Why it cannot be loaded."""
        ...

    def release(self) -> None:
        """Give the lease back."""
        ...


class AdapterSource(Protocol):
    """Where the engine gets adapters from (`veneer.serving.served_adapters.folder`). Its methods may be called on any
    thread."""

    def lease(self, name: str, on_ready: Callable[[], None]) -> AdapterLease:
        """A lease of the adapter with this name. It returns at once, and loading continues elsewhere.

        Args:
            name: the name of the adapter.
            on_ready: called, on any thread, when the adapter is in memory or has failed to load.

        Raises:
            AdapterError: there is no adapter of that name.
        """
        ...


class Wanted(Enum):
    """The logits of a sequence's tokens that are wanted."""

    NONE = "none"
    LAST = "last"
    ALL = "all"
    """The logits of all tokens, to score the prompt's tokens."""


@dataclass(frozen=True, slots=True)
class StepInput:
    """Tokens of a sequence, under an adapter or the base."""

    work: Work
    adapter: LoadedAdapter | None
    wanted: Wanted
    top: int = 0
    """The number of likeliest tokens to give with the score of each prompt token, if all logits are wanted."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The output of a step for an input's wanted tokens."""

    logits: Tensor
    """float32 `[tokens, vocab_size]`, of the last token at least; the next step may overwrite them."""
    likeliest: int
    """The first token with the largest logit after the last of the tokens: a greedy answer continues with it."""
    scored: Sequence[TokenLogprob] = ()
    """The scores of the prompt's tokens that follow the input's tokens, if all logits are wanted. They are scored here,
    because the logits of a long prompt are gigabytes."""


class Runner(Protocol):
    """Computes steps of one model."""

    @property
    def groups(self) -> tuple[BlockGroup, ...]:
        """The groups of layers whose keys and values are in blocks."""
        ...

    @property
    def outgrown(self) -> frozenset[int]:
        """The lengths beyond which everything cached of a text is invalid (LongRoPE)."""
        ...

    @property
    def prompts_apart(self) -> bool:
        """Whether a token's bits differ between a prompt and an answer."""
        ...

    def placement(self, adapter: LoadedAdapter | None) -> Placement:
        """Where the keys and values of sequences under an adapter are kept."""
        ...

    def compute(self, inputs: Sequence[StepInput], dropped: Sequence[BlockId]) -> list[StepOutput | None]:
        """Compute a step.

        Args:
            inputs: the inputs of the step, those of each adapter together.
            dropped: blocks that have been given up since the last step.

        Returns:
            The output of each input, or None if none is wanted.
        """
        ...

    def close(self) -> None:
        """Free the cache."""
        ...
