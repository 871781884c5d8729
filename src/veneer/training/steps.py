"""The steps of a run: which rows make up each, and how they are packed into micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from veneer.backends.base import Description
from veneer.config import RunConfig, TrainSection
from veneer.data.lazy_sequence import LazySequence
from veneer.data.micro_batches.batches import Block, MicroBatch, Steps, deal
from veneer.data.micro_batches.filling import fill, fill_prompts
from veneer.data.micro_batches.mixture import RowMixture
from veneer.data.micro_batches.orders import Indices
from veneer.data.micro_batches.packing import layout, pack, parts_of
from veneer.data.micro_batches.prompt_groups import by_prompt, common_beginning, laid_tokens, prompt_numbers
from veneer.data.rows import Rows
from veneer.enums import Method, ObjectiveName
from veneer.errors import ConfigError
from veneer.padding import OWN_PAD_TO_MULTIPLE_OF, PAD_TO_MULTIPLE_OF, pad_to_multiple
from veneer.planning.batch_shape import BatchShape
from veneer.products import compiled

DEFAULT_EXAMPLES_PER_STEP = 8
SCANNED_STEPS = 1000
"""The number of steps that are searched for the largest micro-batch."""
COMPARED = 50
"""The number of fullest micro-batches that are searched for a beginning that their documents share."""


def examples_per_step(train: TrainSection) -> int | None:
    """Rows in a step, or None if a step is a number of tokens; `auto` must be resolved before."""
    assert train.examples_per_step != "auto"
    if train.examples_per_step is None and train.tokens_per_step is None:
        return DEFAULT_EXAMPLES_PER_STEP
    return train.examples_per_step


def steps_in_epochs(epochs: float, in_epoch: int) -> int:
    """The steps of epochs with equally many steps, in which a part of an epoch is rounded up to whole steps.

    Args:
        epochs: at least 0; rounding in its last digits does not count as a part.
        in_epoch: the number of steps of an epoch.
    """
    return math.ceil(epochs * in_epoch - 1e-9)


def lanes_in(train: TrainSection) -> int:
    """The lanes of a step; 1 if they were left open and there is a single process."""
    return 1 if train.lanes == "auto" else train.lanes


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """How the documents of a micro-batch are packed."""

    share: bool
    """Whether a beginning that all of them share is packed once."""
    evaluation_share: bool
    """Whether it is packed once in the evaluation of single rows; that depends on the model, not on dropout."""
    pad_to_multiple_of: int
    """The number of packed tokens is padded to a multiple of this."""
    prompts: bool = False
    """Whether rows of single answers to one prompt come together in a step, and share it."""


def packing_of(config: RunConfig, description: Description) -> Packing:
    """The packing of a run, as its model, its method and its dropout allow."""
    # If a token's state depends on the final length of its text, no two rows share a beginning. And dropout would drop
    # the same inputs for all rows that share one.
    allowed = not description.spec.by_length
    if not description.capabilities.packing:
        # transformers computes every document in full, so sharing a beginning saves nothing.
        return Packing(share=False, evaluation_share=allowed, pad_to_multiple_of=1)
    share = config.lora.dropout == 0.0 and allowed
    own = compiled() and config.method is not Method.FULL
    return Packing(
        share=share,
        evaluation_share=allowed,
        pad_to_multiple_of=OWN_PAD_TO_MULTIPLE_OF if own else PAD_TO_MULTIPLE_OF,
        prompts=share and config.objective is ObjectiveName.KTO,
    )


class PackedSteps:
    """The steps of a run over its rows, packed into micro-batches (`veneer.training.step_source.StepSource`).

    Args:
        train: the size of a step, and the number of steps.
        packing: how micro-batches are packed.

    Raises:
        ConfigError: the epochs do not make a single step.
    """

    def __init__(self, rows: Rows, train: TrainSection, packing: Packing):
        self.rows = rows
        self.packing = packing
        self._micro_batch_tokens: int | None = None
        """The most tokens of a micro-batch, once they have been chosen."""
        self._together = rows.together
        self._lengths = rows.lengths
        self._shared: dict[int, int] = {}
        mixture = RowMixture(rows.sources) if rows.sources else None
        self._steps = Steps(
            self._lengths,
            seed=train.seed,
            examples_per_step=examples_per_step(train),
            tokens_per_step=train.tokens_per_step,
            mixture=mixture,
            prompts=prompt_numbers(rows.train) if packing.prompts else None,
        )
        self._lane_count = lanes_in(train)
        self._first_epochs = 1 if mixture is None else mixture.first_epochs
        self.total = train.steps or self._for_epochs(train.epochs or 1.0)

    def cut_at(self, micro_batch_tokens: int) -> None:
        """Set the most tokens of a micro-batch of the run."""
        self._micro_batch_tokens = micro_batch_tokens

    @property
    def longest(self) -> int:
        """The number of tokens of the longest row, over all of its parts."""
        return int(self._lengths.max())

    @property
    def first_steps(self) -> int:
        """The number of steps after which every row of the run has occurred. If a source has a weight below 1, an epoch
        holds a part of it, and the next epoch other rows."""
        last = self._steps.epoch_of(self.total - 1) + 1
        return min(self.total, self._steps.total(min(self._first_epochs, last)))

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """The 1-based step's rows, packed."""
        return [batch for lane in self.lanes(step) for batch in lane]

    def lanes(self, step: int, most: int | None = None) -> list[list[MicroBatch]]:
        """The micro-batches of the 1-based step by lane. How they are cut depends on the number of lanes, and on
        nothing else about the devices that compute them.

        Args:
            step: the number of the step.
            most: the most tokens of a micro-batch, if they differ from the run's.
        """
        return [self._pack(members, self.most_tokens(most)) for members in self._dealt(step)]

    def _dealt(self, step: int) -> list[list[int]]:
        """The examples of the 1-based step by lane."""
        chosen = self._steps.examples(step - 1).tolist()
        groups = self._by_prompt(chosen) if self.packing.prompts else [[row] for row in chosen]
        dealt = deal([sum(self._sizes(group)) for group in groups], self._lane_count)
        return [[row for place in places for row in groups[place]] for places in dealt]

    def _by_prompt(self, rows: list[int]) -> list[list[int]]:
        """Rows of single answers, grouped by prompt."""
        return [[rows[place] for place in group] for group in by_prompt([self.rows.train[row] for row in rows])]

    def numbers(self, step: int) -> list[int]:
        """The places of the examples of the 1-based step's rows."""
        return self._parts(self._steps.examples(step - 1).tolist())

    def tokens(self, step: int) -> int:
        """Tokens of the 1-based step's rows."""
        return sum(self._sizes(self._steps.examples(step - 1)))

    def unmet(self, unknown: Callable[[Sequence[int]], int]) -> Iterator[MicroBatch]:
        """The micro-batches of the run and of its evaluation with rows that are not known yet when their turn comes.

        Args:
            unknown: returns how many of the rows at these places are not known.
        """
        for step in range(1, self.first_steps + 1):
            if unknown(self.numbers(step)):
                yield from (batch for batch in self.micro_batches(step) if unknown(batch.numbers))
        yield from (batch for batch in self.evaluation() if unknown(batch.numbers))

    def evaluation(self, most: int | None = None) -> Sequence[MicroBatch]:
        """The evaluation rows, packed; each micro-batch is made when it is read. There are none without rows. `most` is
        as for `lanes`."""
        if not len(self.rows.eval):
            return []
        numbers = range(len(self.rows.train), len(self.rows.train) + len(self.rows.eval))
        share = self.packing.evaluation_share if self._together == 1 else self.packing.share
        return pack(
            LazySequence(len(self.rows.eval), self.rows.eval.__getitem__),
            self.most_tokens(most),
            share=share,
            together=self._together,
            numbers=numbers,
            prompts=self.packing.prompts,
        )

    def _sizes(self, rows: Sequence[int] | Indices) -> list[int]:
        """The number of tokens of each row."""
        sizes: list[int] = self._lengths[rows].tolist()
        return sizes

    def most_tokens(self, most: int | None = None) -> int:
        """The most tokens of a micro-batch: `most`, or those of the run if it is None."""
        chosen = most or self._micro_batch_tokens
        assert chosen is not None, "the size of a micro-batch has not been chosen yet"
        return chosen

    def _pack(self, chosen: Iterable[int], most: int) -> list[MicroBatch]:
        numbers = self._parts(chosen)
        packed = pack(
            [self.rows.train[number] for number in numbers],
            most,
            share=self.packing.share,
            pad_to_multiple_of=self.packing.pad_to_multiple_of,
            together=self._together,
            numbers=numbers,
            prompts=self.packing.prompts,
        )
        # A step counts its micro-batches before it computes them, so all are packed at once.
        return list(packed)

    def _parts(self, chosen: Iterable[int]) -> list[int]:
        """The places of the examples that these rows consist of."""
        return [part for row in chosen for part in parts_of(row, self._together)]

    def _supervised(self, row: int) -> int:
        return sum(self.rows.train[number].supervised for number in self._parts([row]))

    def largest(self, most: int | None = None) -> MicroBatch:
        """The largest micro-batch of the run by packed tokens. For a long run only its first SCANNED_STEPS steps and
        the longest row are searched. `most` is as for `lanes`."""
        members, _ = self._compared(self._bins(self.most_tokens(most)))[0]
        (batch,) = self._pack(members, sum(self._sizes(members)))
        return batch

    def batch_shape(self, micro_batch_tokens: int) -> BatchShape:
        """What the steps consist of when a micro-batch has at most so many tokens."""
        bins = self._bins(micro_batch_tokens)
        compared = self._compared(bins)
        members, blocks = compared[0]
        rows = [index for step in bins for places in step for index in places]
        steps = len(bins)
        parts = self._parts(members)
        lengths = self._part_lengths(rows).astype(np.float64)
        shared = max(block.shared for block in blocks)
        most_blocks = max(len(own) for _, own in compared)
        return BatchShape(
            tokens=self._laid(blocks),
            documents=len(parts),
            longest=max(len(self.rows.train[number].tokens) for other, _ in compared for number in self._parts(other)),
            supervised=max(sum(map(self._supervised, places)) for step in bins for places in step),
            shared=shared,
            blocks=most_blocks,
            together=self._together,
            evaluated=self.rows.evaluated_at_once(micro_batch_tokens),
            shapes=len({self._about(places, shared, most_blocks > 1) for step in bins for places in step}),
            micro_batches=sum(len(step) for step in bins) / steps,
            step_tokens=float(lengths.sum()) / steps,
            step_supervised=sum(map(self._supervised, rows)) / steps,
            step_squares=float((lengths**2).sum()) / steps,
        )

    def _part_lengths(self, rows: list[int]) -> Indices:
        """The number of tokens of each part of some rows."""
        if self._together == 1:
            return self._lengths[rows]
        return np.array([len(self.rows.train[number].tokens) for number in self._parts(rows)], dtype=np.int64)

    def _bins(self, micro_batch_tokens: int) -> list[list[list[int]]]:
        """The examples of the micro-batches of each searched step."""
        steps = []
        for step in range(1, min(self.total, SCANNED_STEPS) + 1):
            bins = []
            for chosen in self._dealt(step):
                bins += [[chosen[place] for place in members] for members in self._fill(chosen, micro_batch_tokens)]
            steps.append(bins)
        return steps

    def _fill(self, chosen: Sequence[int], most: int) -> list[list[int]]:
        """The places in `chosen` of the rows of each micro-batch."""
        if not self.packing.prompts:
            return fill(self._sizes(chosen), most)
        filled = fill_prompts([self.rows.train[row] for row in chosen], most)
        return [[place for group in groups for place in group] for groups in filled]

    def _compared(self, bins: list[list[list[int]]]) -> list[tuple[list[int], list[Block]]]:
        """The rows of the fullest micro-batches and of the longest row, and how they are packed; the one with the most
        packed tokens comes first."""
        longest = [int(np.argmax(self._lengths))]
        fullest = sorted((members for step in bins for members in step), key=lambda members: -self._in_groups(members))
        compared = [(members, self._blocks(members)) for members in (*fullest[:COMPARED], longest)]
        return sorted(compared, key=lambda packed: -self._laid(packed[1]))

    def _in_groups(self, members: list[int]) -> int:
        """The number of packed tokens of rows if the two answers of a pair, and the rows of a prompt, share a beginning
        only with each other."""
        if not self.packing.share:
            return sum(self._sizes(members))
        if self.packing.prompts:
            return sum(laid_tokens([self.rows.train[row] for row in group]) for group in self._by_prompt(members))
        return sum(self._sizes(members)) - sum(self._shared_by(row) for row in members if self._together > 1)

    def _shared_by(self, row: int) -> int:
        """The number of tokens that the parts of a row save by sharing them."""
        if row not in self._shared:
            parts = [self.rows.train[number] for number in self._parts([row])]
            self._shared[row] = common_beginning(parts) * (self._together - 1)
        return self._shared[row]

    def _blocks(self, members: list[int]) -> list[Block]:
        examples = [self.rows.train[number] for number in self._parts(members)]
        if self.packing.prompts:
            return layout(examples, [len(group) for group in by_prompt(examples)])
        if self.packing.share:
            return layout(examples, [self._together] * len(members))
        return [Block(0, tuple(len(example.tokens) for example in examples))]

    def _laid(self, blocks: list[Block]) -> int:
        return pad_to_multiple(sum(block.tokens for block in blocks), self.packing.pad_to_multiple_of)

    def _about(self, members: list[int], shared: int, by_row: bool) -> int:
        """The number of tokens that a micro-batch packs if its documents share as many as those of another."""
        documents = len(members) * self._together
        rows = len(self._by_prompt(members)) if self.packing.prompts else len(members)
        once = rows if by_row else 1
        tokens = sum(self._sizes(members)) - shared * (documents - once)
        return pad_to_multiple(tokens, self.packing.pad_to_multiple_of)

    def epoch(self, step: int) -> float:
        """The number of passes over the data after the 1-based step."""
        epoch = self._steps.epoch_of(step - 1)
        return epoch + (step - self._steps.total(epoch)) / self._steps.in_epoch(epoch)

    def _for_epochs(self, epochs: float) -> int:
        whole = math.floor(epochs)
        total = self._steps.total(whole) + steps_in_epochs(epochs - whole, self._steps.in_epoch(whole))
        if total < 1:
            raise ConfigError(f"train.epochs={epochs} makes no step; give at least one step's worth, or train.steps")
        return total
