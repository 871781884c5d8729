"""The composition of a run's steps, which a plan is made from together with its `Setup`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchShape:
    """The shape of the largest micro-batch, and of an average step."""

    tokens: int
    """Tokens of the largest micro-batch. A shared beginning counts once."""
    documents: int = 1
    """Documents of the largest micro-batch."""
    longest: int
    """Tokens of the longest document of all micro-batches."""
    supervised: int
    """Supervised tokens of the largest micro-batch."""
    shared: int = 0
    """Tokens of a beginning that all its documents share, or those of a block; for several blocks, of the longest."""
    blocks: int = 1
    """Blocks of its documents, each with its own beginning."""
    together: int = 1
    """Documents that form one row: 2 for pairs."""
    evaluated: int = 0
    """Tokens of the largest micro-batch of the evaluation loss."""
    shapes: int = 1
    """Number of distinct micro-batch sizes in the run. Products are compiled for each."""
    micro_batches: float = 1.0
    """The average number of micro-batches in a step."""
    step_tokens: float = 0.0
    """The average number of tokens of a step's documents."""
    step_supervised: float = 0.0
    """The average number of supervised tokens of a step."""
    step_squares: float = 0.0
    """The average sum of the squared lengths of a step's documents."""
    sampled: int = 0
    """Answers that a step samples itself; 0 if its documents are rows."""

    @classmethod
    def of_rows(
        cls,
        length: int,
        micro_batch_tokens: int,
        rows: int,
        supervised: float = 1.0,
        longest: int | None = None,
        together: int = 1,
    ) -> BatchShape:
        """The shape for `rows` rows in a step. Each row has `together` documents of one length, with the share
        `supervised` of supervised tokens.

        One document of the run has the length `longest`.
        """
        fit = max(1, min(rows, micro_batch_tokens // (length * together)))
        longest = length if longest is None else longest
        tokens = max(fit * length, longest) * together
        return cls(
            tokens=tokens,
            documents=fit * together,
            longest=longest,
            supervised=max(1, round(supervised * tokens)),
            blocks=fit if together > 1 else 1,
            together=together,
            micro_batches=-(-rows // fit),
            step_tokens=rows * length * together,
            step_supervised=supervised * rows * length * together,
            step_squares=rows * together * length**2,
        )


class RowSizes(Protocol):
    """How long rows are, and how they fill micro-batches."""

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        ...

    def batch_shape(self, micro_batch_tokens: int) -> BatchShape:
        """What the steps consist of when a micro-batch has at most so many tokens."""
        ...


class StepSizes(RowSizes, Protocol):
    """How many steps a run has, and how large they are."""

    @property
    def total(self) -> int:
        """The number of steps in the whole run."""
        ...
