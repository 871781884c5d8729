"""The rows of a run: read from their files, split into those trained and those evaluated, and encoded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from itertools import chain, groupby
from typing import Protocol

import numpy as np

from veneer.config import DataSection
from veneer.data.encoded.chat import Example, start_template
from veneer.data.encoded.encoding import EncodedFile, encode_all, encoder_of, nothing_left, refuse_problems
from veneer.data.encoded.stored_rows import is_cached, stored_rows
from veneer.data.encoded.token_store import StoredExamples, add_to_digest
from veneer.data.files.sources import RowFile, RunFiles, run_files
from veneer.data.forms.prompts import EncodedPrompts, PromptRow, encode_prompts, unasked_notes
from veneer.data.kind_rows import IMITATED_KINDS, ROW_PARTS, KindRow
from veneer.data.lint.audit import RowAudit
from veneer.data.micro_batches.mixture import RowMixture, WeightedRows
from veneer.data.micro_batches.orders import Indices
from veneer.data.notes import LISTED_ROWS, findings, one_label_note, overlap_note, repeats_note, weight_note
from veneer.data.problems import RowProblem
from veneer.data.records import duplicates, overlap
from veneer.data.sides import Sides, read_sides
from veneer.data.trained_rows import row_hashes
from veneer.enums import RowKind
from veneer.events import Level, Note, Stage, Subscriber, counted, ignore, notes_to
from veneer.io.tokenizer import Tokenizer
from veneer.text.counting import count_of


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
    """The rows that the evaluation loss is measured on; empty if there are none."""
    skipped: tuple[RowProblem, ...] = ()
    """The rows that could not be used and were left out (`data.bad_rows: skip`)."""
    hashes: Iterable[bytes] = field(default=(), repr=False)
    """The hashes of the rows that are trained (`veneer.data.trained_rows`), in pieces; they can be iterated again."""
    sources: tuple[WeightedRows, ...] = ()
    """The sources of the rows that are trained, in the rows' order; empty if an epoch holds each row once."""
    together: int = 1
    """The number of examples that are one row: 2 for pairs, the chosen one first."""
    labels: tuple[bool, ...] = ()
    """Whether each answer is desirable: first the trained rows, then the evaluated ones; empty without labels."""
    margins: tuple[float, ...] = ()
    """By how much the chosen answer of each pair is better, in the order of `labels`; empty if no row says so."""
    prompts: tuple[PromptRow, ...] = ()
    """The prompts with their columns, in the order of `labels`; empty if rows have answers."""
    further: tuple[int, int] = (0, 0)
    """The numbers of trained and of evaluated examples that are later pieces of a long text, not its first."""
    files: RunFiles | None = None
    """The files that the rows were read from; None in a process that received the rows from another one."""

    def digest(self) -> str:
        """A hash of every token and its loss mask, of labels and margins, and of what judges sampled answers.

        It does not depend on which rows are evaluated, or on how often an epoch has the rows of a source.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        # Computed once: if part of a large corpus is held out, this reads every token.
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
        """The number of rows of an epoch. The rows of a source count as often as its weight says."""
        return RowMixture(self.sources).in_epoch if self.sources else self.count

    @property
    def row_counts(self) -> tuple[int, int]:
        """The numbers of the files' rows that are trained and evaluated. All pieces of a long text are one row."""
        return self.count - self.further[0], self.eval_count - self.further[1]

    @property
    def eval_count(self) -> int:
        """The number of rows that are evaluated. Every piece of a long text is one."""
        return len(self.eval) // self.together

    @property
    def lengths(self) -> Indices:
        """The tokens of each training row, all of its parts together, [rows]."""
        lengths = _lengths(self.train)
        return lengths if self.together == 1 else lengths.reshape(-1, self.together).sum(axis=1)

    @property
    def completion_tokens(self) -> int:
        """The number of supervised tokens of all training rows."""
        if isinstance(self.train, StoredExamples):
            return self.train.supervised
        return sum(example.supervised for example in self.train)

    @property
    def supervised_tokens(self) -> int:
        """The number of supervised tokens of all rows, including the evaluation rows."""
        return self.completion_tokens + sum(example.supervised for example in self.eval)

    def evaluated_at_once(self, most: int) -> int:
        """The most tokens of a micro-batch of evaluation rows that may have `most` tokens: those of the longest row if
        it is longer, and of all rows if they have fewer; 0 if there is none."""
        lengths = _lengths(self.eval)
        return max(int(lengths.max(initial=0)) * self.together, min(most, int(lengths.sum())))

    def longer_than(self, limit: int) -> tuple[int, str]:
        """The number of rows that have more than `limit` tokens, and the place of the first of them."""
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
    """Read and encode the files of a run, and report what was found.

    Args:
        data: the files, and the settings for long rows and for keeping tokens on the disk.
        tokenizer: encodes the rows.
        emit: receives the progress, and notes about rows that repeat, were cut or were left out.
        kind: the kind as which rows are read. Only tokens of ANSWERS and TEXTS are kept on the disk.

    Raises:
        DataError: a file or some of its rows cannot be used, or nothing is left to train or evaluate on.
        OutputError: tokens cannot be written to the disk.
    """
    files = run_files(data, emit)
    if kind in IMITATED_KINDS and is_cached(data, [file.path for file in (*files.train, *files.eval)]):
        stored = stored_rows(data, files, tokenizer, emit, kind)
        sources = _weighted(files.train, stored.in_files, emit)
        return Rows(
            stored.train, stored.eval, stored.skipped, stored.hashes, sources, further=stored.further, files=files
        )
    start_template(tokenizer)
    sides = read_sides(data, files, kind, emit)
    _say_repeats(sides, emit)
    if kind is RowKind.PROMPTS:
        return _prompts(sides, files, tokenizer, data, emit)
    encoded = [
        _encoded(rows, what, kind, tokenizer, data, emit)
        for rows, what in ((sides.train, "training"), (sides.eval, "evaluation"))
        if rows
    ]
    train, held_out = encoded[0].examples, encoded[1].examples if sides.eval else []
    each = slice(None, None, len(ROW_PARTS[kind]))
    places = [example.where for example in train[each]]
    by_place = {row.where: row for row in (*sides.train, *sides.eval)}
    used = [by_place[place] for place in (*places, *(example.where for example in held_out[each]))]
    labels = tuple(row.desirable for row in used) if kind is RowKind.LABELLED else ()
    have_margins = any(row.margin is not None for row in by_place.values())
    told, trained = set(labels[: len(train)]), set(places)
    if len(train) > 1 and len(told) == 1:
        emit(Note(message=one_label_note(len(train), told.pop())))
    return Rows(
        train=train,
        eval=held_out,
        skipped=(*sides.skipped, *(problem for side in encoded for problem in side.report.skipped)),
        hashes=(row_hashes(record for row in sides.train if row.where in trained for record in row.records),),
        sources=_weighted(files.train, Counter(place.rpartition(":")[0] for place in places), emit),
        together=len(ROW_PARTS[kind]),
        labels=labels,
        margins=tuple(row.margin or 0.0 for row in used) if have_margins else (),
        further=(encoded[0].report.further, sum(side.report.further for side in encoded[1:])),
        files=files,
    )


def _say_repeats(sides: Sides, emit: Subscriber) -> None:
    """Emit notes about evaluation rows that are also training rows, and about training rows that repeat each other."""
    notice = notes_to(emit)
    train, evaluated = ([row.whole for row in side] for side in (sides.train, sides.eval))
    shared = overlap(train, evaluated)
    if shared:
        notice(overlap_note(len(shared), len(evaluated), *shared[0]))
    repeats = duplicates(train)
    if repeats:
        notice(repeats_note(len(repeats), *repeats[0]))


def _encoded(
    rows: Sequence[KindRow], what: str, kind: RowKind, tokenizer: Tokenizer, data: DataSection, emit: Subscriber
) -> EncodedFile:
    """Encode the answers of one side's rows, and report the progress and what was found.

    Raises:
        DataError: see `encode_all`.
    """
    audit = RowAudit(tokenizer, data.checks)
    records = [record for row in rows for record in row.records]
    unit = "rows" if kind in IMITATED_KINDS else "answers"
    with Stage(emit, f"tokenising {what} rows", total=len(records), unit=unit) as stage:
        found = encode_all(
            counted(records, stage),
            tokenizer,
            max_length=data.max_length,
            overlong=data.overlong,
            bad_rows=data.bad_rows,
            audit=audit,
            parts=ROW_PARTS[kind],
            what=what,
            emit=emit,
        )
    for line in (*findings(found.report, what), *audit.notes(what)):
        emit(Note(message=line))
    return found


def _prompts(sides: Sides, files: RunFiles, tokenizer: Tokenizer, data: DataSection, emit: Subscriber) -> Rows:
    """The rows of a run that samples its answers."""
    for note in unasked_notes([row.prompt for row in (*sides.train, *sides.eval) if row.prompt is not None]):
        emit(Note(message=note, level=Level.WARNING))
    train = _encode_prompts(sides.train, tokenizer, data, "training", emit)
    held_out = _encode_prompts(sides.eval, tokenizer, data, "evaluation", emit)
    return Rows(
        train=train.examples,
        eval=held_out.examples,
        skipped=(*sides.skipped, *train.problems, *held_out.problems),
        hashes=(row_hashes(one.record for one in train.prompts),),
        sources=_weighted(files.train, Counter(example.where.rpartition(":")[0] for example in train.examples), emit),
        prompts=(*train.prompts, *held_out.prompts),
        files=files,
    )


def _encode_prompts(
    rows: list[KindRow], tokenizer: Tokenizer, data: DataSection, what: str, emit: Subscriber
) -> EncodedPrompts:
    prompts = [row.prompt for row in rows if row.prompt is not None]
    with Stage(emit, f"tokenising {what} prompts", total=len(prompts), unit="prompts") as stage:
        found = encode_prompts(list(counted(prompts, stage)), encoder_of(tokenizer), data.max_length)
    refuse_problems(found.problems, len(prompts) - len(found.problems), data.bad_rows, checked=False)
    if prompts:
        tokens = [len(example.tokens) for example in found.examples]
        emit(
            Note(
                message=(
                    f"{count_of(len(tokens), f'{what} prompt')}: {count_of(sum(tokens), 'token')}; "
                    f"longest {max(tokens, default=0):,}"
                )
            )
        )
    if found.overlong:
        named = ", ".join(list(found.overlong)[:LISTED_ROWS]) + (
            " and more" if len(found.overlong) > LISTED_ROWS else ""
        )
        message = (
            f"{count_of(len(found.overlong), f'{what} prompt')} "
            f"longer than data.max_length={data.max_length} and left out"
        )
        emit(Note(message=f"{message}: {named}"))
    if prompts and not found.prompts:
        raise nothing_left(what, len(prompts), data.max_length, len(found.overlong), max(found.overlong.values()), 0)
    return found


def _weighted(files: Sequence[RowFile], counts: Mapping[str, int], emit: Subscriber) -> tuple[WeightedRows, ...]:
    """The rows of each file, if some files have a weight.

    Args:
        files: the files of training rows.
        counts: the number of training rows of each file.
        emit: receives a warning about a pattern of files so small that an epoch does not hold the rows of its weight.
    """
    if all(file.weight == 1.0 for file in files):
        return ()
    found = tuple(WeightedRows(counts.get(str(file.path), 0), file.weight) for file in files)
    for place, members in groupby(zip(files, found, strict=True), key=lambda one: one[0].key.partition(" ")[0]):
        sources = [source for _, source in members]
        rows, held = sum(source.rows for source in sources), RowMixture(sources).in_epoch
        asked = sources[0].weight * rows
        if abs(held - asked) > max(1.0, asked / 10):
            note = weight_note(place, len(sources), rows, held, sources[0].weight)
            emit(Note(message=note, level=Level.WARNING))
    return found
