"""What computes the tokens of a step: the side of the engine that knows the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from torch import Tensor

from veneer.errors import VeneerError
from veneer.generation.blocks import Block, BlockGroup
from veneer.generation.request import TokenLogprob
from veneer.generation.sequence import Placement, Work
from veneer.model.language import LanguageModel
from veneer.native.factors import FactorTable


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedAdapter:
    """An adapter in memory, in the form in which the engine computes it.

    Exactly one of `factors` and `model` is there.
    """

    key: bytes
    """Digest of the adapter's content and scales. What is cached under it is valid for equal content alone."""
    nbytes: int
    """Bytes that it takes beside the base."""
    factors: FactorTable | None = None
    """For the compiled step, beside other adapters."""
    model: LanguageModel | None = None
    """The base's modules with those of the adapter in their places, for an adapter that the compiled step does not
    know. Its sequences are computed in batches of their own."""


class AdapterLease(Protocol):
    """The right to use one version of an adapter until `release`, whatever is loaded or unloaded meanwhile."""

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
        """A lease of the adapter of a name, at once; loading goes on elsewhere.

        Args:
            name: of the adapter.
            on_ready: called, on any thread, when the adapter is in memory or has failed to load.

        Raises:
            AdapterError: there is no adapter of that name.
        """
        ...


class Wanted(Enum):
    """Which logits of a sequence's tokens are wanted."""

    NONE = "none"
    LAST = "last"
    ALL = "all"
    """Those of all tokens, to score the prompt's by."""


@dataclass(frozen=True, slots=True)
class StepInput:
    """Tokens of a sequence, under an adapter or the base."""

    work: Work
    adapter: LoadedAdapter | None
    wanted: Wanted
    top: int = 0
    """How many of the likeliest tokens each of the prompt's is scored with, where all logits are wanted."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step makes of an input's wanted tokens."""

    logits: Tensor
    """float32 `[tokens, vocab_size]`, of the last token at least; the next step may overwrite them."""
    likeliest: int
    """The first token with the largest logit after the last of the tokens: a greedy answer goes on with it."""
    scored: Sequence[TokenLogprob] = ()
    """The prompt's tokens behind the first of the input's, as far as the one behind its last, where all logits are
    wanted. They are scored here, because the logits of a long prompt are gigabytes."""


class Runner(Protocol):
    """Computes steps of one model."""

    @property
    def groups(self) -> tuple[BlockGroup, ...]:
        """The groups of layers whose keys and values stand in blocks."""
        ...

    @property
    def outgrown(self) -> frozenset[int]:
        """Lengths of a text beyond which nothing that is cached of it is valid any more (LongRoPE)."""
        ...

    @property
    def prompts_apart(self) -> bool:
        """Whether a token has other bits as one of a prompt than as one of an answer."""
        ...

    def placement(self, adapter: LoadedAdapter | None) -> Placement:
        """Who keeps the keys and values of sequences under an adapter."""
        ...

    def compute(self, inputs: Sequence[StepInput], dropped: Sequence[Block]) -> list[StepOutput | None]:
        """Compute a step.

        Args:
            inputs: what the step computes, the inputs of each adapter together.
            dropped: blocks that have been given up since the last step.

        Returns:
            For each input its output, or None where none is wanted.
        """
        ...

    def close(self) -> None:
        """Free the cache."""
        ...
