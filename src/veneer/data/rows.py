"""The rows of a run: read from their files, split into those trained and those evaluated, and encoded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from itertools import chain
from typing import Protocol

import numpy as np

from veneer.config import DataSection
from veneer.data.account import findings, overlap_note, repeats_note
from veneer.data.encoded.chat import Example, start_template
from veneer.data.encoded.encoding import EncodedFile, encode_all
from veneer.data.encoded.stored_rows import is_cached, stored_rows
from veneer.data.encoded.token_store import StoredExamples, add_to_digest
from veneer.data.files.sources import RowFile, RunFiles, run_files
from veneer.data.forms.prompts import PromptRow
from veneer.data.lint.audit import RowAudit
from veneer.data.micro_batches.mixture import RowMixture, WeightedRows
from veneer.data.micro_batches.orders import Indices
from veneer.data.problems import RowProblem
from veneer.data.records import Record, RecordReader, duplicates, overlap
from veneer.data.splits import split_rows
from veneer.data.trained_rows import row_hashes
from veneer.enums import RowKind
from veneer.events import Note, Stage, Subscriber, counted, ignore, notes_to
from veneer.io.tokenizer import Tokenizer


class Examples(Protocol):
    """Encoded rows by their number: a list, or rows that are kept on the disk (`veneer.data.encoded.token_store`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Example: ...

    def __iter__(self) -> Iterator[Example]: ...


@dataclass(frozen=True)
class Rows:
    """The encoded rows of a run."""

    train: Examples
    """The rows that are trained. The examples of a row with several parts follow each other."""
    eval: Examples
    """The rows that the evaluation loss is measured on; empty where there are none."""
    skipped: tuple[RowProblem, ...] = ()
    """The rows that could not be used and were left out (`data.bad_rows: skip`)."""
    hashes: Iterable[bytes] = field(default=(), repr=False)
    """The hashes of the rows that are trained (`veneer.data.trained_rows`), in pieces; they can be iterated again."""
    sources: tuple[WeightedRows, ...] = ()
    """The sources of the rows that are trained, in the rows' order; none where an epoch holds each row once."""
    together: int = 1
    """The number of examples that are one row: 2 for pairs, the chosen one first."""
    labels: tuple[bool, ...] = ()
    """Whether each answer is desirable, those that are trained first; none where rows have no labels."""
    margins: tuple[float, ...] = ()
    """By how much the chosen answer of each pair is better, those that are trained first; none where no row says it."""
    prompts: tuple[PromptRow, ...] = ()
    """The rows as they ask, with their columns, those that are trained first; none where rows have answers."""
    further: tuple[int, int] = (0, 0)
    """How many examples are further pieces of a long text, not its first, of those trained and of those evaluated."""
    files: RunFiles | None = None
    """The files that the rows were read from; None in a process that has them from another one."""

    def digest(self) -> str:
        """A hash of every token and its loss mask, of labels and margins, and of what judges sampled answers.

        Which of the rows are evaluated, and how often an epoch has those of a source, is not in it.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        # Made once: of a large corpus a part of which is held out, every token is read for it.
        if isinstance(self.train, StoredExamples) and self.train.whole and not len(self.eval):
            return self.train.store.meta.digest
        state = blake2b(digest_size=16)
        for example in chain(self.train, self.eval):
            add_to_digest(state, example)
        if self.labels:
            state.update(np.array(self.labels).tobytes())
        if self.margins:
            state.update(np.array(self.margins).tobytes())
        for prompt in self.prompts:
            state.update(json.dumps([prompt.given, prompt.columns], sort_keys=True, default=str).encode())
        return state.hexdigest()

    @property
    def count(self) -> int:
        """The number of rows that steps are made of. Every piece of a long text is one."""
        return len(self.train) // self.together

    @property
    def in_epoch(self) -> int:
        """The number of rows of an epoch. Those of a source count as often as its weight says."""
        return RowMixture(self.sources).in_epoch if self.sources else self.count

    @property
    def row_counts(self) -> tuple[int, int]:
        """The numbers of rows of the files that are trained and evaluated. All pieces of a long text are one."""
        return self.count - self.further[0], self.eval_count - self.further[1]

    @property
    def eval_count(self) -> int:
        """The number of rows that are evaluated. Every piece of a long text is one."""
        return len(self.eval) // self.together

    @property
    def lengths(self) -> Indices:
        """Tokens of each row that is trained, all of its parts together, [rows]."""
        lengths = _lengths(self.train)
        return lengths if self.together == 1 else lengths.reshape(-1, self.together).sum(axis=1)

    @property
    def completion_tokens(self) -> int:
        """The supervised tokens of all training rows."""
        if isinstance(self.train, StoredExamples):
            return self.train.supervised
        return sum(example.supervised for example in self.train)

    @property
    def supervised_tokens(self) -> int:
        """The supervised tokens of all rows, those that are evaluated included."""
        return self.completion_tokens + sum(example.supervised for example in self.eval)

    @property
    def longest_eval(self) -> int:
        """Tokens of the longest evaluation row; 0 where there is none."""
        return int(_lengths(self.eval).max(initial=0))

    def longer_than(self, limit: int) -> tuple[int, str]:
        """The number of rows that have more than `limit` tokens, and where the first of them stands."""
        count, first = 0, ""
        for examples in (self.train, self.eval):
            longer = _lengths(examples) > limit
            if not first and longer.any():
                number = int(longer.argmax())
                first = examples.where(number) if isinstance(examples, StoredExamples) else examples[number].where
            count += int(longer.sum())
        return count, first


def _lengths(examples: Examples) -> Indices:
    if isinstance(examples, StoredExamples):
        return examples.lengths
    return np.array([len(example.tokens) for example in examples], dtype=np.int64)


def load_rows(
    data: DataSection, tokenizer: Tokenizer, emit: Subscriber = ignore, kind: RowKind = RowKind.ANSWERS
) -> Rows:
    """Read and encode the files of a run, and say what was found.

    Args:
        data: names the files, and says what happens to long rows, and whether tokens are kept on the disk.
        tokenizer: encodes the rows.
        emit: told how far it is, and of rows that repeat, were cut or were left out.
        kind: what rows are read as, ANSWERS or TEXTS.

    Raises:
        DataError: a file or some of its rows cannot be used, or nothing is left to train or evaluate on.
        OutputError: tokens are to be kept on the disk, and cannot be written.
    """
    files = run_files(data, emit)
    if is_cached(data, [file.path for file in (*files.train, *files.eval)]):
        stored = stored_rows(data, files, tokenizer, emit, kind)
        sources = weighted(files.train, stored.in_files)
        return Rows(
            stored.train, stored.eval, stored.skipped, stored.hashes, sources, further=stored.further, files=files
        )
    start_template(tokenizer)
    notice = notes_to(emit)
    records, skipped = _read(files.train, data, kind, emit)
    eval_records: list[Record] = []
    if files.eval:
        eval_records, left_out = _read(files.eval, data, kind, emit)
        skipped += left_out
    elif data.held_out:
        records, eval_records = split_rows(records, records, data, files.train, emit)
    shared = overlap(records, eval_records)
    if shared:
        notice(overlap_note(len(shared), len(eval_records), *shared[0]))
    repeats = duplicates(records)
    if repeats:
        notice(repeats_note(len(repeats), *repeats[0]))
    encoded = encode_sides(records, eval_records, tokenizer, data, emit)
    places = {example.where for example in encoded.train}
    return Rows(
        train=encoded.train,
        eval=encoded.eval,
        skipped=(*skipped, *encoded.skipped),
        hashes=(row_hashes(record for record in records if record.where in places),),
        sources=weighted(files.train, Counter(example.where.rpartition(":")[0] for example in encoded.train)),
        further=encoded.further,
        files=files,
    )


def _read(
    files: Sequence[RowFile], data: DataSection, kind: RowKind, emit: Subscriber
) -> tuple[list[Record], list[RowProblem]]:
    """The rows of files, and those that are left out."""
    reader = RecordReader([str(file.path) for file in files], data.columns, data.bad_rows, data.split.column, kind)
    records = list(reader)
    for note in reader.notes:
        emit(Note(message=note))
    return records, reader.skipped


def weighted(files: Sequence[RowFile], counts: Mapping[str, int]) -> tuple[WeightedRows, ...]:
    """The sources of rows, where some have a weight; `counts` are the rows that are trained of each file."""
    if all(file.weight == 1.0 for file in files):
        return ()
    return tuple(WeightedRows(counts.get(str(file.path), 0), file.weight) for file in files)


@dataclass(frozen=True, slots=True)
class EncodedSides:
    """The examples of both sides of a run's rows."""

    train: list[Example]
    eval: list[Example]
    skipped: tuple[RowProblem, ...]
    """The rows that could not be encoded and were left out."""
    further: tuple[int, int]
    """As in `Rows`."""


def encode_sides(
    trained: list[Record],
    evaluated: list[Record],
    tokenizer: Tokenizer,
    data: DataSection,
    emit: Subscriber,
    *,
    parts: Sequence[str] = ("",),
    unit: str = "rows",
) -> EncodedSides:
    """Encode the records of both sides, and tell how far it is and what was found.

    Args:
        trained, evaluated: in the order of their rows; there may be none that are evaluated.
        tokenizer: of the model.
        data: the settings.
        emit: told.
        parts: as for `encode_all`.
        unit: what is counted.

    Raises:
        DataError: as `encode_all`.
    """

    def encoded(records: list[Record], what: str) -> EncodedFile:
        audit = RowAudit(tokenizer, data.checks)
        with Stage(emit, f"tokenising {what} rows", total=len(records), unit=unit) as stage:
            found = encode_all(
                counted(records, stage),
                tokenizer,
                max_length=data.max_length,
                overlong=data.overlong,
                bad_rows=data.bad_rows,
                audit=audit,
                parts=parts,
                emit=emit,
            )
        for line in (*findings(found.report, what), *audit.notes(what)):
            emit(Note(message=line))
        return found

    train = encoded(trained, "training")
    if not evaluated:
        return EncodedSides(train.examples, [], tuple(train.report.skipped), (train.report.further, 0))
    held_out = encoded(evaluated, "evaluation")
    return EncodedSides(
        train.examples,
        held_out.examples,
        (*train.report.skipped, *held_out.report.skipped),
        (train.report.further, held_out.report.further),
    )
