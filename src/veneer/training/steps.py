"""The steps of a run: which rows make up each, and how they are packed into micro-batches."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from veneer.config import RunConfig, TrainSection
from veneer.data.batches import MicroBatch, Steps, common_beginning, fill, pack
from veneer.data.chat import Example
from veneer.enums import Backend, Method
from veneer.errors import ConfigError
from veneer.padding import OWN_PAD_TO_MULTIPLE_OF, PAD_TO_MULTIPLE_OF, pad_to_multiple
from veneer.planning.setup import BatchShape
from veneer.products import compiled

DEFAULT_EXAMPLES_PER_STEP = 8
SCANNED_STEPS = 1000
"""Steps looked through for the largest micro-batch."""
COMPARED = 50
"""Of the fullest micro-batches, so many are looked at for what their documents share."""


def examples_per_step(train: TrainSection) -> int | None:
    """Rows in a step, or None where a step is a number of tokens; `auto` must have been settled."""
    assert train.examples_per_step != "auto"
    if train.examples_per_step is None and train.tokens_per_step is None:
        return DEFAULT_EXAMPLES_PER_STEP
    return train.examples_per_step


class PackedSteps:
    """Steps over examples, packed into micro-batches (`veneer.training.engine.StepSource`).

    Args:
        examples: of the run.
        config: of the run.
        by_length: whether what the model makes of a beginning depends on how long the text becomes
            (`DecoderSpec.by_length`): then no two rows share one.
    """

    def __init__(self, examples: list[Example], config: RunConfig, *, by_length: bool = False):
        train = config.train
        self._examples = examples
        self._lengths = [len(example.tokens) for example in examples]
        self._chosen = config.compute.micro_batch_tokens
        # transformers takes documents one by one: there is no shape to fill up, and no beginning to share.
        flat = config.backend is not Backend.HF
        self._share = flat and config.lora.dropout == 0.0 and not by_length
        self._multiple = (
            (OWN_PAD_TO_MULTIPLE_OF if compiled() and config.method is not Method.FULL else PAD_TO_MULTIPLE_OF)
            if flat
            else 1
        )
        self._steps = Steps(
            np.array(self._lengths),
            seed=train.seed,
            examples_per_step=examples_per_step(train),
            tokens_per_step=train.tokens_per_step,
        )
        self.total = train.steps or self._for_epochs(train.epochs or 1.0)

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens of a micro-batch at most; it must have been chosen."""
        assert self._chosen != "auto"
        return self._chosen

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self._lengths)

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """The 1-based step's rows, packed."""
        chosen = self._steps.examples(step - 1)
        return self._pack(chosen, self.micro_batch_tokens)

    def _pack(self, chosen: Iterable[int], most: int) -> list[MicroBatch]:
        return pack(
            [self._examples[index] for index in chosen],
            most,
            share=self._share,
            pad_to_multiple_of=self._multiple,
        )

    def largest(self) -> MicroBatch:
        """The largest micro-batch of the run, by tokens laid; of a long run, of its first SCANNED_STEPS steps and of
        the longest row."""
        members, _ = self._largest(self._bins(self.micro_batch_tokens))
        (batch,) = self._pack(members, sum(self._lengths))
        return batch

    def cut(self, micro_batch_tokens: int) -> BatchShape:
        """What the run's steps are made of when a micro-batch has at most so many tokens."""
        bins = self._bins(micro_batch_tokens)
        members, shared = self._largest(bins)
        rows = [index for step in bins for places in step for index in places]
        steps = len(bins)
        lengths = np.array(self._lengths)[rows].astype(np.float64)
        return BatchShape(
            tokens=self._laid(members, shared),
            documents=len(members),
            longest=max(self._lengths[index] for index in members),
            supervised=max(sum(self._examples[i].supervised for i in places) for step in bins for places in step),
            shared=shared,
            shapes=len({self._laid(places, shared) for step in bins for places in step}),
            micro_batches=sum(len(step) for step in bins) / steps,
            step_tokens=float(lengths.sum()) / steps,
            step_supervised=sum(self._examples[index].supervised for index in rows) / steps,
            step_squares=float((lengths**2).sum()) / steps,
        )

    def _bins(self, micro_batch_tokens: int) -> list[list[list[int]]]:
        """For each step that is looked through, the examples of its micro-batches."""
        steps = []
        for step in range(min(self.total, SCANNED_STEPS)):
            chosen = self._steps.examples(step).tolist()
            places = fill([self._lengths[index] for index in chosen], micro_batch_tokens)
            steps.append([[chosen[place] for place in members] for members in places])
        return steps

    def _largest(self, bins: list[list[list[int]]]) -> tuple[list[int], int]:
        """The examples of the micro-batch with the most tokens laid, and how many of those they share."""
        longest = [int(np.argmax(self._lengths))]
        fullest = sorted(
            (members for step in bins for members in step), key=lambda members: -sum(self._lengths[i] for i in members)
        )[:COMPARED]
        shared = [self._shared(members) for members in (*fullest, longest)]
        return max(zip((*fullest, longest), shared, strict=True), key=lambda found: self._laid(*found))

    def _shared(self, members: list[int]) -> int:
        return common_beginning([self._examples[index] for index in members]) if self._share else 0

    def _laid(self, members: list[int], shared: int) -> int:
        return pad_to_multiple(
            sum(self._lengths[index] for index in members) - shared * (len(members) - 1), self._multiple
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
