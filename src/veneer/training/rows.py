"""The rows of a run: read, encoded, split, and served to the engine by step number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from veneer.config import RunConfig, TrainSection
from veneer.data.batches import MicroBatch, Steps, common_beginning, fill, order, pack
from veneer.data.chat import EncodeReport, Example, encode_all
from veneer.data.records import Record, duplicates, overlap, read_records
from veneer.enums import Backend, Method
from veneer.errors import ConfigError, DataError
from veneer.io.tokenizer import Tokenizer
from veneer.padding import OWN_PAD_TO_MULTIPLE_OF, PAD_TO_MULTIPLE_OF, pad_to_multiple
from veneer.planning.setup import Cut
from veneer.products import compiled

Notice = Callable[[str], None]
"""Told, in a sentence, of everything about the data that the user should know."""

DEFAULT_EXAMPLES_PER_STEP = 8
SCANNED_STEPS = 1000
"""Steps looked through for the largest micro-batch."""
COMPARED = 50
"""Of the fullest micro-batches, so many are looked at for what their documents share."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What is trained on and what the evaluation loss is measured on."""

    train: list[Example]
    heldout: list[Example]

    def digest(self) -> str:
        """A hash of every token and its loss mask: equal means that the same numbers are trained."""
        state = blake2b(digest_size=16)
        for example in (*self.train, *self.heldout):
            state.update(len(example.tokens).to_bytes(4, "little"))
            state.update(example.tokens.tobytes())
            state.update(example.loss_mask.tobytes())
        return state.hexdigest()


def load_rows(config: RunConfig, tokenizer: Tokenizer, notice: Notice) -> Rows:
    """Read and encode the files of `config.data`, and say what was found.

    Raises:
        DataError: a file or some of its rows cannot be used, or nothing is left to train or evaluate on.
    """
    records = read_records(config.data.file)
    heldout: list[Record] = []
    if config.data.eval_file is not None:
        heldout = read_records(config.data.eval_file)
    elif config.data.held_out:
        records, heldout = split(records, config.data.held_out)
    shared = overlap(records, heldout)
    if shared:
        notice(
            f"{len(shared)} of {len(heldout)} evaluation rows are also training rows "
            f"(first: {shared[0][0]} = {shared[0][1]}): the evaluation loss is too good"
        )
    repeats = duplicates(records)
    if repeats:
        notice(f"{len(repeats)} training rows repeat an earlier one (first: {repeats[0][0]} = {repeats[0][1]})")
    return Rows(
        train=_encode(records, tokenizer, config, "training", notice),
        heldout=_encode(heldout, tokenizer, config, "evaluation", notice) if heldout else [],
    )


def split(records: list[Record], share: float) -> tuple[list[Record], list[Record]]:
    """Keep `share` of the records (at least one) apart; both parts stay in the file's order.

    Which ones follows from the records' number alone: runs of several seeds, or points of a sweep, are evaluated on the
    same rows.

    Raises:
        DataError: there are too few records to have some on both sides.
    """
    count = max(1, round(share * len(records)))
    if count >= len(records):
        raise DataError(
            f"data.held_out={share} of {len(records)} rows leaves none to train on; give more rows or an eval_file"
        )
    # Another stream than the epochs' orders, which start from 0.
    chosen = set(order(len(records), seed=0, epoch=2**31)[:count].tolist())
    kept = [record for index, record in enumerate(records) if index not in chosen]
    return kept, [record for index, record in enumerate(records) if index in chosen]


def _encode(records: list[Record], tokenizer: Tokenizer, config: RunConfig, what: str, notice: Notice) -> list[Example]:
    encoded = encode_all(records, tokenizer, max_length=config.data.max_length, overlong=config.data.overlong)
    for line in _findings(encoded.report, what):
        notice(line)
    return encoded.examples


def _findings(report: EncodeReport, what: str) -> list[str]:
    lines = [
        f"{report.examples:,} {what} rows: {report.tokens:,} tokens, {report.supervised:,} of them supervised; "
        f"longest row {report.longest:,} tokens ({report.longest_where})"
    ]
    groups = {
        f"longer than data.max_length={report.max_length} and left out": report.dropped,
        f"cut to data.max_length={report.max_length} tokens": report.truncated,
        "left out, since nothing in them trains": report.untrained,
        "spell a control token, which is trained as ordinary text": report.spelled,
    }
    for text, where in groups.items():
        if where:
            more = f" and {len(where) - 3} more" if len(where) > 3 else ""
            lines.append(f"{len(where)} {what} rows {text}: {', '.join(where[:3])}{more}")
    return lines + list(report.notes)


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

    def cut(self, micro_batch_tokens: int) -> Cut:
        """What the run's steps are made of when a micro-batch has at most so many tokens."""
        bins = self._bins(micro_batch_tokens)
        members, shared = self._largest(bins)
        rows = [index for step in bins for places in step for index in places]
        steps = len(bins)
        lengths = np.array(self._lengths)[rows].astype(np.float64)
        return Cut(
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
