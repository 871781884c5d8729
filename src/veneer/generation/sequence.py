"""A sequence: the tokens of a request, and how much of it is in the cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Placement(Enum):
    """Where a sequence's keys and values are kept."""

    BLOCKS = "blocks"
    """The engine's cache, block by block: sequences of any length are computed together."""
    COHORT = "cohort"
    """The cache of the batch in which the sequence began. It holds room for the whole sequence from the start, the
    prompt is computed at once, and nothing is shared."""


@dataclass(eq=False, kw_only=True, slots=True)
class SequenceState:
    """One sequence. Only the scheduler changes what is in the cache; the engine appends tokens."""

    number: int
    """Counts sequences in the order of their arrival."""
    adapter: str
    """The adapter whose share of the machine this uses; empty for the base."""
    root: bytes | None
    """The key before the first block, which stands for everything else that keys and values depend on. None shares
    nothing."""
    prompt_tokens: int
    capacity: int
    """The most tokens that the sequence can reach."""
    prompt: tuple[int, ...] = ()
    """The prompt of the request, which several answers share; `begin` makes `tokens` from it."""
    tokens: list[int] = field(default_factory=list)
    """The prompt's tokens and the new ones; none before the sequence is first admitted."""
    placement: Placement = Placement.BLOCKS
    computed: int = 0
    """Tokens whose keys and values are in the cache."""
    cached_tokens: int = 0
    """Tokens that were in the cache when the sequence was first admitted."""
    keys: list[bytes] = field(default_factory=list)
    """Keys of the whole blocks that have been registered or shared."""
    tables: list[list[int]] = field(default_factory=list)
    """The numbers of the sequence's blocks in each group, in order."""
    charged: int = 0
    """The tokens that its adapter's counter has been charged for."""
    preemptions: int = 0

    def begin(self) -> None:
        """Make its own tokens, if it has none yet."""
        self.tokens = self.tokens or list(self.prompt)

    @property
    def length(self) -> int:
        """The number of its tokens, whether it is admitted or not."""
        return len(self.tokens) or self.prompt_tokens

    @property
    def pending(self) -> int:
        """Tokens that are not computed yet."""
        return len(self.tokens) - self.computed

    @property
    def answer(self) -> list[int]:
        """The new tokens."""
        return self.tokens[self.prompt_tokens :]


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens of a sequence that the next step computes."""

    sequence: SequenceState
    start: int
    count: int

    @property
    def stop(self) -> int:
        """The place after the last token."""
        return self.start + self.count

    @property
    def ends(self) -> bool:
        """Whether the last token of the sequence is among them, so that its logits are wanted."""
        return self.stop == len(self.sequence.tokens)
