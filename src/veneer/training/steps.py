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
"""Steps looked through for the largest micro-batch."""
COMPARED = 50
"""The number of fullest micro-batches that are searched for a beginning that their documents share."""


def examples_per_step(train: TrainSection) -> int | None:
    """Rows in a step, or None where a step is a number of tokens; `auto` must have been settled."""
    assert train.examples_per_step != "auto"
    if train.examples_per_step is None and train.tokens_per_step is None:
        return DEFAULT_EXAMPLES_PER_STEP
    return train.examples_per_step


def lanes_in(train: TrainSection) -> int:
    """The lanes of a step; one where that was left open for a single process."""
    return 1 if train.lanes == "auto" else train.lanes


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """How the documents of a micro-batch are laid."""

    share: bool
    """Whether a beginning that all of them have is laid once."""
    evaluation_share: bool
    """Whether it is laid once where single rows are evaluated: what the model allows, without dropout."""
    pad_to_multiple_of: int
    """The number of tokens laid is filled up to a multiple of this."""
    prompts: bool = False
    """Whether rows of single answers that have one prompt meet in a step, and share it."""


def packing_of(config: RunConfig, description: Description) -> Packing:
    """The packing of a run: what its model, its method and its dropout allow."""
    # Where a token's state depends on how long its text becomes, no two rows have a beginning in common. And dropout
    # would drop the same inputs for all rows that share one.
    allowed = not description.spec.by_length
    if not description.capabilities.packing:
        # transformers computes whole documents, whatever is laid once.
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
        rows: of the run.
        train: says what a step is, and how many there are.
        packing: how micro-batches are laid.

    Raises:
        ConfigError: the epochs make no step.
    """

    def __init__(self, rows: Rows, train: TrainSection, packing: Packing):
        self.rows = rows
        self.packing = packing
        self._micro_batch_tokens: int | None = None
        """Tokens of a micro-batch at most, once they have been chosen."""
        self._together = rows.together
        self._lengths = rows.lengths
        self._shared: dict[int, int] = {}
        self._steps = Steps(
            self._lengths,
            seed=train.seed,
            examples_per_step=examples_per_step(train),
            tokens_per_step=train.tokens_per_step,
            mixture=RowMixture(rows.sources) if rows.sources else None,
            prompts=prompt_numbers(rows.train) if packing.prompts else None,
        )
        self._lane_count = lanes_in(train)
        self._first_epochs = RowMixture(rows.sources).first_epochs if rows.sources else 1
        self.total = train.steps or self._for_epochs(train.epochs or 1.0)

    def cut_at(self, micro_batch_tokens: int) -> None:
        """Take note of how many tokens a micro-batch of the run has at most."""
        self._micro_batch_tokens = micro_batch_tokens

    @property
    def longest(self) -> int:
        """Tokens of the longest row, all of its parts together."""
        return int(self._lengths.max())

    @property
    def first_steps(self) -> int:
        """The number of steps behind which no row of the run is met for the first time. Of a source with a weight below
        1 an epoch holds a part, and the next one others."""
        last = self._steps.epoch_of(self.total - 1) + 1
        return min(self.total, self._steps.total(min(self._first_epochs, last)))

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """The 1-based step's rows, packed."""
        return [batch for lane in self.lanes(step) for batch in lane]

    def lanes(self, step: int, most: int | None = None) -> list[list[MicroBatch]]:
        """The micro-batches of the 1-based step by lane. How they are cut depends on the number of lanes, and on
        nothing else of how many devices compute them.

        Args:
            step: the number of the step.
            most: tokens of a micro-batch at most, where they are not the run's.
        """
        return [self._pack(members, self.most_tokens(most)) for members in self._dealt(step)]

    def _dealt(self, step: int) -> list[list[int]]:
        """The examples of the 1-based step by lane."""
        chosen = self._steps.examples(step - 1).tolist()
        groups = self._by_prompt(chosen) if self.packing.prompts else [[row] for row in chosen]
        dealt = deal([sum(self._sizes(group)) for group in groups], self._lane_count)
        return [[row for place in places for row in groups[place]] for places in dealt]

    def _by_prompt(self, rows: list[int]) -> list[list[int]]:
        """Rows of single answers, those with one prompt together."""
        return [[rows[place] for place in group] for group in by_prompt([self.rows.train[row] for row in rows])]

    def numbers(self, step: int) -> list[int]:
        """The places of the examples of the 1-based step's rows."""
        return self._parts(self._steps.examples(step - 1).tolist())

    def tokens(self, step: int) -> int:
        """Tokens of the 1-based step's rows."""
        return sum(self._sizes(self._steps.examples(step - 1)))

    def unmet(self, unknown: Callable[[Sequence[int]], int]) -> Iterator[MicroBatch]:
        """The micro-batches of the run and of its evaluation that have rows which are unknown when their turn comes.

        Args:
            unknown: says how many of the rows at these places are not known.
        """
        for step in range(1, self.first_steps + 1):
            if unknown(self.numbers(step)):
                yield from (batch for batch in self.micro_batches(step) if unknown(batch.numbers))
        yield from (batch for batch in self.evaluation() if unknown(batch.numbers))

    def evaluation(self, most: int | None = None) -> Sequence[MicroBatch]:
        """The evaluation rows, packed, each micro-batch laid when it is asked for; none where there are no rows. `most`
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
        """Tokens of each of some rows."""
        sizes: list[int] = self._lengths[rows].tolist()
        return sizes

    def most_tokens(self, most: int | None = None) -> int:
        """Tokens of a micro-batch at most: `most`, or those of the run where it is None."""
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
        # A step counts its micro-batches before it computes them, so that all are laid at once.
        return list(packed)

    def _parts(self, chosen: Iterable[int]) -> list[int]:
        """The places of the examples that these rows consist of."""
        return [part for row in chosen for part in parts_of(row, self._together)]

    def _supervised(self, row: int) -> int:
        return sum(self.rows.train[number].supervised for number in self._parts([row]))

    def largest(self, most: int | None = None) -> MicroBatch:
        """The largest micro-batch of the run, by tokens laid; of a long run, of its first SCANNED_STEPS steps and of
        the longest row. `most` as for `lanes`."""
        members, _ = self._compared(self._bins(self.most_tokens(most)))[0]
        (batch,) = self._pack(members, sum(self._sizes(members)))
        return batch

    def batch_shape(self, micro_batch_tokens: int) -> BatchShape:
        """What the steps are made of when a micro-batch has at most so many tokens."""
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
            longest=max(len(self.rows.train[number].tokens) for number in parts),
            supervised=max(sum(map(self._supervised, places)) for step in bins for places in step),
            shared=shared,
            blocks=most_blocks,
            together=self._together,
            evaluated=self.rows.longest_eval * self._together,
            shapes=len({self._about(places, shared, most_blocks > 1) for step in bins for places in step}),
            micro_batches=sum(len(step) for step in bins) / steps,
            step_tokens=float(lengths.sum()) / steps,
            step_supervised=sum(map(self._supervised, rows)) / steps,
            step_squares=float((lengths**2).sum()) / steps,
        )

    def _part_lengths(self, rows: list[int]) -> Indices:
        """Tokens of each part of some rows."""
        if self._together == 1:
            return self._lengths[rows]
        return np.array([len(self.rows.train[number].tokens) for number in self._parts(rows)], dtype=np.int64)

    def _bins(self, micro_batch_tokens: int) -> list[list[list[int]]]:
        """For each step that is looked through, the examples of its micro-batches."""
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
        """The rows of the fullest micro-batches and of the longest row, and how they are laid; the one with the most
        tokens laid first."""
        longest = [int(np.argmax(self._lengths))]
        fullest = sorted((members for step in bins for members in step), key=lambda members: -self._in_groups(members))
        found = [(members, self._blocks(members)) for members in (*fullest[:COMPARED], longest)]
        return sorted(found, key=lambda one: -self._laid(one[1]))

    def _in_groups(self, members: list[int]) -> int:
        """Tokens of rows where every pair, and the rows of every prompt, share nothing with others."""
        if not self.packing.share:
            return sum(self._sizes(members))
        if self.packing.prompts:
            return sum(laid_tokens([self.rows.train[row] for row in group]) for group in self._by_prompt(members))
        return sum(self._sizes(members)) - sum(self._shared_by(row) for row in members if self._together > 1)

    def _shared_by(self, row: int) -> int:
        """Tokens that the parts of a row share, as often as they are not laid."""
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
        """Tokens that a micro-batch lays, if its documents share as many as those of another."""
        documents = len(members) * self._together
        rows = len(self._by_prompt(members)) if self.packing.prompts else len(members)
        once = rows if by_row else 1
        tokens = sum(self._sizes(members)) - shared * (documents - once)
        return pad_to_multiple(tokens, self.packing.pad_to_multiple_of)

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
