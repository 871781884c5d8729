"""Steps and micro-batches: examples are assigned to steps, and the examples of a step are packed into micro-batches
(`veneer.data.micro_batches.packing`).

A step is the unit of the optimiser: a number of examples, or of tokens. It is a pure function of the lengths, the seed
and the step's number, so a resumed run needs only that number. A micro-batch is a unit of memory: a step's examples
packed end to end in rows of at most `max_tokens`, without padding, each document with its own positions. The cut of a
step into micro-batches never changes what is trained, only how much is held at a time.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from veneer.data.micro_batches.mixture import RowMixture
from veneer.data.micro_batches.orders import NUMBERS_AT_ONCE, Indices, order
from veneer.data.micro_batches.prompt_groups import rows_together, side_by_side
from veneer.errors import DataError

MOST_EPOCH_ROWS = 2**32 - 1
"""The most rows of an epoch: their order is held in four bytes for each."""


class Steps:
    """The steps of a run, by number from 0, through any number of epochs.

    A step takes the next examples in the epoch's order: `examples_per_step` of them, or as many as fit into
    `tokens_per_step` (a longer one is a step of its own). No step crosses the end of an epoch: the last one of an epoch
    has the remaining examples, and counts as a step like any other.

    Args:
        lengths: the tokens of each example, [num_examples].
        seed: the seed of the order.
        examples_per_step, tokens_per_step: the size of a step; exactly one of the two is given.
        mixture: how often each example is in an epoch, if that is not once.
        prompts: the numbers of the examples' prompts, [num_examples], if examples with the same prompt are to meet in a
            step (`veneer.data.micro_batches.prompt_groups.side_by_side`). They have no effect if an epoch may have an
            example twice.

    Raises:
        DataError: there are no examples, or more in an epoch than `MOST_EPOCH_ROWS`, or not exactly one positive size
            is given.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Indices,
        *,
        seed: int,
        examples_per_step: int | None = None,
        tokens_per_step: int | None = None,
        mixture: RowMixture | None = None,
        prompts: NDArray[np.int64] | None = None,
    ) -> None:
        sizes = [size for size in (examples_per_step, tokens_per_step) if size is not None]
        if len(sizes) != 1 or sizes[0] < 1:
            raise DataError(
                "a step is a positive number of examples or of tokens, one of the two; given are "
                f"examples_per_step={examples_per_step} and tokens_per_step={tokens_per_step}"
            )
        self._lengths = np.asarray(lengths)
        if not len(self._lengths):
            raise DataError("there are no examples to make steps of")
        self._seed = seed
        self._mixture = None if mixture is None or mixture.plain else mixture
        self._per_epoch = len(self._lengths) if self._mixture is None else self._mixture.in_epoch
        if self._per_epoch > MOST_EPOCH_ROWS:
            raise DataError(
                f"an epoch of data.sources has {self._per_epoch:,} rows by their weights, but may have at most "
                f"{MOST_EPOCH_ROWS:,}: give smaller weights and more epochs instead"
            )
        self._examples = examples_per_step
        self._tokens = tokens_per_step or 0
        self._prompts = prompts if self._mixture is None else None
        in_step = examples_per_step or int(self._tokens / self._lengths.mean())
        self._meeting = rows_together(in_step)
        # The first step of each epoch that was used so far; under a token budget epochs differ in their steps.
        self._first = [0]
        self._latest: tuple[int, Indices, Sequence[int]] | None = None

    def in_epoch(self, epoch: int) -> int:
        """The number of steps in an epoch."""
        if self._examples is not None:
            return -(-self._per_epoch // self._examples)
        self._reach(epoch)
        return self._first[epoch + 1] - self._first[epoch]

    def total(self, epochs: int) -> int:
        """The number of steps in the first `epochs` epochs."""
        return sum(self.in_epoch(epoch) for epoch in range(epochs))

    def epoch_of(self, step: int) -> int:
        """The epoch that a step belongs to."""
        if self._examples is not None:
            return step // self.in_epoch(0)
        epoch = int(np.searchsorted(self._first, step, side="right")) - 1
        while epoch + 1 >= len(self._first):
            self._reach(epoch)
            epoch = int(np.searchsorted(self._first, step, side="right")) - 1
        return epoch

    def examples(self, step: int) -> Indices:
        """The indices of a step's examples, in the epoch's order."""
        if step < 0:
            raise IndexError(f"step {step}: steps are counted from 0")
        epoch = self.epoch_of(step)
        ordered, borders = self._cut(epoch)
        within = step - (epoch * self.in_epoch(0) if self._examples is not None else self._first[epoch])
        return ordered[borders[within] : borders[within + 1]]

    def _reach(self, epoch: int) -> None:
        while len(self._first) < epoch + 2:
            _, borders = self._cut(len(self._first) - 1)
            self._first.append(self._first[-1] + len(borders) - 1)

    def _cut(self, epoch: int) -> tuple[Indices, Sequence[int]]:
        """The order of an epoch, and the positions in it where its steps begin; the last one may be its end."""
        if self._latest is not None and self._latest[0] == epoch:
            return self._latest[1], self._latest[2]
        self._latest = None  # so that the orders of two epochs are never held
        ordered = order(self._per_epoch, seed=self._seed, epoch=epoch)
        if self._mixture is not None:
            ordered = self._mixture.at(ordered, epoch, self._seed)
        if self._prompts is not None:
            ordered = side_by_side(ordered, self._prompts, self._meeting)
        borders: Sequence[int]
        if self._examples is not None:
            borders = range(0, len(ordered) + self._examples, self._examples)
        else:
            borders = _token_borders(self._lengths, ordered, self._tokens)
        self._latest = (epoch, ordered, borders)
        return ordered, borders


def _token_borders(lengths: Indices, ordered: Indices, tokens: int) -> array[int]:
    """The positions in an order where its steps begin, each step with at most this many tokens; the last one is the
    end. Lengths are summed in windows, not for all examples at once."""
    borders = array("q", [0])
    # Each example has at least one token, so no step has more examples than tokens.
    window = max(NUMBERS_AT_ONCE, tokens + 1)
    while borders[-1] < len(ordered):
        first = borders[-1]
        sums = np.cumsum(lengths[ordered[first : first + window]], dtype=np.int64)
        place = 0
        while place < len(sums):
            used = int(sums[place - 1]) if place else 0
            end = max(int(np.searchsorted(sums, used + tokens, side="right")), place + 1)
            if end == len(sums) and first + end < len(ordered):
                break  # the step may extend beyond the window
            place = end
            borders.append(first + place)
    return borders


@dataclass(frozen=True, slots=True)
class Block:
    """Documents of a micro-batch with their own common beginning."""

    shared: int
    """The number of tokens that begin every document of the block, and are packed once."""
    lengths: tuple[int, ...]
    """The number of tokens of each document without the shared ones, in order."""

    @property
    def tokens(self) -> int:
        """The number of packed tokens."""
        return self.shared + sum(self.lengths)


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """Documents packed end to end. Tokens that all of them begin with come once, before them; padding may follow. T is
    the number of packed tokens, S the number of targets, D the number of documents."""

    tokens: Tensor
    """int64 [T]"""
    positions: Tensor
    """The position of each token in its document, int64 [T]."""
    shared: int
    """The number of tokens at the front that begin every document; 0 if nothing is shared."""
    lengths: tuple[int, ...]
    """The number of tokens of each document without the shared ones, in order."""
    filler: int
    """The number of padding tokens at the end, which belong to no document; shared, lengths and filler sum to T."""
    targets: Tensor
    """The token after each of `rows`, int64 [S]."""
    rows: Tensor
    """The index in [0, T) of the token before each target, int64 [S]; a shared token may precede several targets. Those
    of a document are together, and the documents are in order."""
    blocks: tuple[Block, ...] = ()
    """The blocks, if documents that belong together have their own beginning; `shared` is then 0. Empty if all
    documents are one block."""
    counts: tuple[int, ...] = ()
    """The number of targets of each document, [D]."""
    numbers: tuple[int, ...] = ()
    """The index of each document among the examples of the run, [D]."""
    together: int = 1
    """The number of consecutive documents that are one row: 2 for a pair."""
    baseline: float | Tensor = 0.0
    """The value that the objective subtracts from every document's gain, equal for all micro-batches of a step."""
    beside: Beside | None = None
    """Texts after the prompts of these documents that are computed in the same pass, without gradients."""

    @property
    def units(self) -> int:
        """The number of rows: documents, or pairs of them. A row is never cut."""
        return len(self.lengths) // self.together

    @property
    def supervised(self) -> int:
        """The number of targets, S."""
        return int(self.rows.numel())

    @property
    def segments(self) -> tuple[int, ...]:
        """The lengths of everything after the shared tokens: the documents, and the filler as one more."""
        return (*self.lengths, self.filler) if self.filler else self.lengths

    @property
    def document_tokens(self) -> int:
        """The number of tokens of all documents; the shared ones count in each."""
        blocks = self.blocks or (Block(self.shared, self.lengths),)
        return sum(sum(block.lengths) + block.shared * len(block.lengths) for block in blocks)


@dataclass(frozen=True, slots=True)
class Beside:
    """Documents whose prompts are in another micro-batch, from which the tokens of the prompts are taken.

    T is the number of tokens of their own micro-batch, N the number of those that are in no prompt."""

    batch: MicroBatch
    """The documents, each after its prompt."""
    sources: Tensor
    """The index of each token among the tokens of the other micro-batch followed by the N own ones, int64 [T]."""
    own: Tensor
    """The indices of the tokens that are in no prompt, int64 [N]."""


def deal(lengths: Sequence[int], lanes: int) -> list[list[int]]:
    """Distribute examples over lanes with about equal numbers of tokens: the longest first, each to the lane with the
    fewest so far (Graham, 1969: at most 4/3 of the best division's largest lane).

    Args:
        lengths: the tokens of each example of a step.
        lanes: the number of lanes.

    Returns:
        For each lane the ascending indices of its examples in `lengths`; a lane may have none.
    """
    if lanes == 1:
        return [list(range(len(lengths)))]
    dealt: list[list[int]] = [[] for _ in range(lanes)]
    tokens = [0] * lanes
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        lane = min(range(lanes), key=lambda lane: (tokens[lane], lane))
        dealt[lane].append(index)
        tokens[lane] += lengths[index]
    return [sorted(indices) for indices in dealt]
