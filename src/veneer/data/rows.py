"""The rows of a run: read from their files, split into those trained and those evaluated, and encoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b

from veneer.config import DataSection
from veneer.data.chat import Example
from veneer.data.encoding import EncodeReport, encode_all
from veneer.data.lint.audit import RowAudit
from veneer.data.problems import RowProblem, grouped
from veneer.data.records import Record, duplicates, overlap, read_file
from veneer.data.splits import split_records
from veneer.data.trained_rows import row_hashes
from veneer.events import Note, Stage, Subscriber, counted, ignore, notes_to
from veneer.io.tokenizer import Tokenizer

LISTED = 3
"""Rows that a finding names; it counts the others."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The encoded rows of a run."""

    train: list[Example]
    """The rows that are trained."""
    eval: list[Example]
    """The rows that the evaluation loss is measured on; empty where there are none."""
    skipped: tuple[RowProblem, ...] = ()
    """The rows that could not be used and were left out (`data.bad_rows: skip`)."""
    hashes: bytes = field(default=b"", repr=False)
    """The hashes of the rows that are trained (`veneer.data.trained_rows`)."""

    def digest(self) -> str:
        """A hash of every token and its loss mask. Two runs with equal digests train and evaluate the same numbers."""
        state = blake2b(digest_size=16)
        for example in (*self.train, *self.eval):
            state.update(len(example.tokens).to_bytes(4, "little"))
            state.update(example.tokens.tobytes())
            state.update(example.loss_mask.tobytes())
        return state.hexdigest()

    @property
    def count(self) -> int:
        """The number of rows that are trained."""
        return len(self.train)

    @property
    def completion_tokens(self) -> int:
        """The supervised tokens of all training rows."""
        return sum(example.supervised for example in self.train)

    @property
    def longest_eval(self) -> int:
        """Tokens of the longest evaluation row; 0 where there is none."""
        return max((len(example.tokens) for example in self.eval), default=0)

    def longer_than(self, limit: int) -> list[str]:
        """Where the rows stand that have more than `limit` tokens."""
        return [example.where for example in (*self.train, *self.eval) if len(example.tokens) > limit]


def load_rows(data: DataSection, tokenizer: Tokenizer, emit: Subscriber = ignore) -> Rows:
    """Read and encode the files of a run, and say what was found.

    Args:
        data: names the files, and says what happens to long rows.
        tokenizer: encodes the rows.
        emit: told how far it is, and of rows that repeat, were cut or were left out.

    Raises:
        DataError: a file or some of its rows cannot be used, or nothing is left to train or evaluate on.
    """
    skipped: list[RowProblem] = []
    notice = notes_to(emit)
    records = _read(data.file, data, skipped, emit)
    eval_records: list[Record] = []
    if data.eval_file is not None:
        eval_records = _read(data.eval_file, data, skipped, emit)
    elif data.held_out:
        records, eval_records = split_records(records, data)
    shared = overlap(records, eval_records)
    if shared:
        notice(
            f"{len(shared)} of {len(eval_records)} evaluation rows are also training rows "
            f"(first: {shared[0][0]} = {shared[0][1]}): the evaluation loss is too good"
        )
    repeats = duplicates(records)
    if repeats:
        notice(f"{len(repeats)} training rows repeat an earlier one (first: {repeats[0][0]} = {repeats[0][1]})")
    train = _encode(records, tokenizer, data, "training", skipped, emit)
    places = {example.where for example in train}
    return Rows(
        train=train,
        eval=_encode(eval_records, tokenizer, data, "evaluation", skipped, emit) if eval_records else [],
        skipped=tuple(skipped),
        hashes=row_hashes(record for record in records if record.where in places),
    )


def _read(file: str, data: DataSection, skipped: list[RowProblem], emit: Subscriber) -> list[Record]:
    found = read_file(file, columns=data.columns, bad_rows=data.bad_rows)
    for note in found.notes:
        emit(Note(message=note))
    skipped += found.skipped
    return found.records


def _encode(
    records: list[Record],
    tokenizer: Tokenizer,
    data: DataSection,
    what: str,
    skipped: list[RowProblem],
    emit: Subscriber,
) -> list[Example]:
    audit = RowAudit(tokenizer, data.checks)
    with Stage(emit, f"tokenising {what} rows", total=len(records), unit="rows") as stage:
        encoded = encode_all(
            counted(records, stage),
            tokenizer,
            max_length=data.max_length,
            overlong=data.overlong,
            bad_rows=data.bad_rows,
            audit=audit,
        )
    skipped += encoded.report.skipped
    for line in (*findings(encoded.report, what), *audit.notes(what)):
        emit(Note(message=line))
    return encoded.examples


def findings(report: EncodeReport, what: str) -> list[str]:
    """What encoding found, a sentence a line.

    Args:
        report: as `encode_all` made it.
        what: which rows they are, as the sentences say it: "training" or "evaluation".
    """
    more_than = "more than " if report.longest_is_bound else ""
    lines = [
        f"{report.examples:,} {what} rows: {report.tokens:,} tokens, {report.supervised:,} of them supervised; "
        f"longest row {more_than}{report.longest:,} tokens ({report.longest_where})"
    ]
    groups = {
        f"longer than data.max_length={report.max_length} and left out": report.dropped,
        f"cut to data.max_length={report.max_length} tokens": report.truncated,
        "left out, since nothing in them trains": report.untrained,
        "spell a control token, which is trained as ordinary text": report.spelled,
    }
    for text, where in groups.items():
        if where:
            more = f" and {len(where) - LISTED} more" if len(where) > LISTED else ""
            lines.append(f"{len(where)} {what} rows {text}: {', '.join(where[:LISTED])}{more}")
    if report.skipped:
        lines.append(
            f"{len(report.skipped)} {what} rows cannot be encoded and are left out:\n{grouped(report.skipped)}"
        )
    return lines + list(report.notes)
