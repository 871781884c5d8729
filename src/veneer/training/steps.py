"""The steps of a run: which rows make up each, and how they are packed into micro-batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from veneer.backends.base import Description
from veneer.config import RunConfig, TrainSection
from veneer.data.batches import MicroBatch, Steps, common_beginning, fill, pack
from veneer.data.mixture import RowMixture
from veneer.data.orders import Indices
from veneer.data.rows import Rows
from veneer.enums import Method
from veneer.errors import ConfigError
from veneer.padding import OWN_PAD_TO_MULTIPLE_OF, PAD_TO_MULTIPLE_OF, pad_to_multiple
from veneer.planning.setup import BatchShape
from veneer.products import compiled

DEFAULT_EXAMPLES_PER_STEP = 8
SCANNED_STEPS = 1000
"""Steps looked through for the largest micro-batch."""
COMPARED = 50
"""The number of fullest micro-batches that are searched for a beginning that their documents share."""


def examples_per_step(train: TrainSection) -> int | None:
    """Rows in a step, or None where a step is a number of tokens; `auto` must have been settled."""
    assert train.examples_per_step != "auto"
    if train.examples_per_step is None and train.tokens_per_step is None:
        return DEFAULT_EXAMPLES_PER_STEP
    return train.examples_per_step


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """How the documents of a micro-batch are laid."""

    share: bool
    """Whether a beginning that all of them have is laid once."""
    pad_to_multiple_of: int
    """The number of tokens laid is filled up to a multiple of this."""


def packing_of(config: RunConfig, description: Description) -> Packing:
    """The packing of a run: what its model, its method and its dropout allow."""
    if not description.capabilities.packing:
        return Packing(share=False, pad_to_multiple_of=1)
    # Where a token's state depends on how long its text becomes, no two rows have a beginning in common. And dropout
    # would drop the same inputs for all rows that share one.
    share = config.lora.dropout == 0.0 and not description.spec.by_length
    own = compiled() and config.method is not Method.FULL
    return Packing(share=share, pad_to_multiple_of=OWN_PAD_TO_MULTIPLE_OF if own else PAD_TO_MULTIPLE_OF)


class PackedSteps:
    """The steps of a run over its rows, packed into micro-batches (`veneer.training.engine.StepSource`).

    Args:
        rows: of the run.
        train: says what a step is, and how many there are.
        packing: how micro-batches are laid.
        micro_batch_tokens: tokens of a micro-batch at most, where that is known already.

    Raises:
        ConfigError: the epochs make no step.
    """

    def __init__(self, rows: Rows, train: TrainSection, packing: Packing, micro_batch_tokens: int | None = None):
        self.rows = rows
        self.packing = packing
        self.micro_batch_tokens = micro_batch_tokens
        self._lengths = rows.lengths
        self._steps = Steps(
            self._lengths,
            seed=train.seed,
            examples_per_step=examples_per_step(train),
            tokens_per_step=train.tokens_per_step,
            mixture=RowMixture(rows.sources) if rows.sources else None,
        )
        self.total = train.steps or self._for_epochs(train.epochs or 1.0)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self._lengths.max())

    def micro_batches(self, step: int, most: int | None = None) -> list[MicroBatch]:
        """The 1-based step's rows, packed.

        Args:
            step: the number of the step.
            most: tokens of a micro-batch at most, where they are not the run's.
        """
        return self._pack(self._steps.examples(step - 1).tolist(), most or self._most())

    def tokens(self, step: int) -> int:
        """Tokens of the 1-based step's rows."""
        return sum(self._sizes(self._steps.examples(step - 1)))

    def evaluation(self, most: int | None = None) -> list[MicroBatch]:
        """The evaluation rows, packed; an empty list where there are none. `most` as for `micro_batches`."""
        return pack(list(self.rows.eval), most or self._most()) if len(self.rows.eval) else []

    def _sizes(self, rows: Sequence[int] | Indices) -> list[int]:
        """Tokens of each of some rows."""
        sizes: list[int] = self._lengths[rows].tolist()
        return sizes

    def _most(self) -> int:
        assert self.micro_batch_tokens is not None, "the size of a micro-batch has not been chosen yet"
        return self.micro_batch_tokens

    def _pack(self, chosen: Iterable[int], most: int) -> list[MicroBatch]:
        return pack(
            [self.rows.train[index] for index in chosen],
            most,
            share=self.packing.share,
            pad_to_multiple_of=self.packing.pad_to_multiple_of,
        )

    def largest(self, most: int | None = None) -> MicroBatch:
        """The largest micro-batch of the run, by tokens laid; of a long run, of its first SCANNED_STEPS steps and of
        the longest row. `most` as for `micro_batches`."""
        members, _ = self._largest(self._bins(most or self._most()))
        (batch,) = self._pack(members, sum(self._sizes(members)))
        return batch

    def batch_shape(self, micro_batch_tokens: int) -> BatchShape:
        """What the steps are made of when a micro-batch has at most so many tokens."""
        bins = self._bins(micro_batch_tokens)
        members, shared = self._largest(bins)
        rows = [index for step in bins for places in step for index in places]
        steps = len(bins)
        lengths = self._lengths[rows].astype(np.float64)
        return BatchShape(
            tokens=self._laid(members, shared),
            documents=len(members),
            longest=max(self._sizes(members)),
            supervised=max(sum(self.rows.train[i].supervised for i in places) for step in bins for places in step),
            shared=shared,
            evaluated=self.rows.longest_eval,
            shapes=len({self._laid(places, shared) for step in bins for places in step}),
            micro_batches=sum(len(step) for step in bins) / steps,
            step_tokens=float(lengths.sum()) / steps,
            step_supervised=sum(self.rows.train[index].supervised for index in rows) / steps,
            step_squares=float((lengths**2).sum()) / steps,
        )

    def _bins(self, micro_batch_tokens: int) -> list[list[list[int]]]:
        """For each step that is looked through, the examples of its micro-batches."""
        steps = []
        for step in range(min(self.total, SCANNED_STEPS)):
            chosen = self._steps.examples(step).tolist()
            places = fill(self._sizes(chosen), micro_batch_tokens)
            steps.append([[chosen[place] for place in members] for members in places])
        return steps

    def _largest(self, bins: list[list[list[int]]]) -> tuple[list[int], int]:
        """The examples of the micro-batch with the most tokens laid, and how many of those they share."""
        longest = [int(np.argmax(self._lengths))]
        fullest = sorted(
            (members for step in bins for members in step), key=lambda members: -sum(self._sizes(members))
        )[:COMPARED]
        shared = [self._shared(members) for members in (*fullest, longest)]
        return max(zip((*fullest, longest), shared, strict=True), key=lambda found: self._laid(*found))

    def _shared(self, members: list[int]) -> int:
        return common_beginning([self.rows.train[index] for index in members]) if self.packing.share else 0

    def _laid(self, members: list[int], shared: int) -> int:
        return pad_to_multiple(
            sum(self._sizes(members)) - shared * (len(members) - 1),
            self.packing.pad_to_multiple_of,
        )

    def epoch(self, step: int) -> float:
        """Passes over the data that are done after the 1-based step."""
        epoch = self._steps.epoch_of(step - 1)
        return epoch + (step - self._steps.total(epoch)) / self._steps.in_epoch(epoch)

    def _for_epochs(self, epochs: float) -> int:
        whole = math.floor(epochs)
        total = self._steps.total(whole) + math.ceil((epochs - whole) * self._steps.in_epoch(whole) - 1e-9)
        if total < 1:
            raise ConfigError(f"train.epochs={epochs} makes no step; give at least one step's worth, or train.steps")
        return total


@dataclass(frozen=True, kw_only=True, slots=True)
class SupposedRows:
    """Rows that are only supposed, for a plan without data."""

    rows: int = 1000
    """The number of rows."""
    tokens: int = 512
    """Tokens of a row, on average; all of them are supervised."""
    longest: int = 512
    """Tokens of the longest row."""

    @property
    def count(self) -> int:
        """The number of rows that are trained."""
        return self.rows

    @property
    def completion_tokens(self) -> int:
        """The supervised tokens of all rows."""
        return self.rows * self.tokens


class SupposedSteps:
    """The sizes of the steps that supposed rows make (`veneer.planning.forecast.StepSizes`)."""

    def __init__(self, rows: SupposedRows, train: TrainSection):
        in_step = examples_per_step(train)
        if in_step is None:
            in_step = max(1, (train.tokens_per_step or 1) // rows.tokens)
        self._rows = rows
        self._in_step = min(in_step, rows.rows)
        self.total = train.steps or max(1, round((train.epochs or 1.0) * -(-rows.rows // self._in_step)))

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self._rows.longest

    def batch_shape(self, micro_batch_tokens: int) -> BatchShape:
        """What the steps are made of when a micro-batch has at most so many tokens."""
        return BatchShape.of_rows(self._rows.tokens, micro_batch_tokens, self._in_step, longest=self._rows.longest)
