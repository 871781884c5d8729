"""The rows of a run on preferences: pairs, read from their files, split, and encoded with both answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from veneer.config import DataSection
from veneer.data.account import findings, overlap_note, repeats_note
from veneer.data.chat import Example
from veneer.data.encoding import encode_all
from veneer.data.formats import Remarks
from veneer.data.json_values import BadRow
from veneer.data.lint.audit import RowAudit
from veneer.data.preference import Pair, to_pair
from veneer.data.problems import RowProblem
from veneer.data.readers import iterate_rows
from veneer.data.records import Record, account, duplicates, overlap
from veneer.data.rows import Rows, load_rows, weighted
from veneer.data.sources import RowFile, evaluation_files, training_files
from veneer.data.splits import evaluation_records, split_records
from veneer.data.trained_rows import row_hashes
from veneer.enums import RowKind
from veneer.events import Note, Stage, Subscriber, counted, ignore, notes_to
from veneer.io.tokenizer import Tokenizer

PARTS = {RowKind.ANSWERS: 1, RowKind.PAIRS: 2}
"""The number of examples that a row has, by its kind."""


def load_kind(
    data: DataSection, tokenizer: Tokenizer, emit: Subscriber = ignore, kind: RowKind = RowKind.ANSWERS
) -> Rows:
    """Read and encode the files of a run whose rows are of one kind, and say what was found.

    Args:
        data, tokenizer, emit: as `veneer.data.rows.load_rows`.
        kind: what the rows are.

    Raises:
        DataError: a file or some of its rows cannot be used, or nothing is left to train or evaluate on.
    """
    if kind is RowKind.ANSWERS:
        return load_rows(data, tokenizer, emit)
    skipped: list[RowProblem] = []
    files, notice = training_files(data, emit), notes_to(emit)
    pairs, evaluated = _sides(data, files, skipped, emit)
    shared = overlap([_whole(pair) for pair in pairs], [_whole(pair) for pair in evaluated])
    if shared:
        notice(overlap_note(len(shared), len(evaluated), *shared[0]))
    repeats = duplicates([_whole(pair) for pair in pairs])
    if repeats:
        notice(repeats_note(len(repeats), *repeats[0]))
    train = _encode(pairs, tokenizer, data, "training", skipped, emit)
    places = {example.where for example in train}
    return Rows(
        train=train,
        eval=_encode(evaluated, tokenizer, data, "evaluation", skipped, emit) if evaluated else [],
        skipped=tuple(skipped),
        hashes=(row_hashes(record for pair in pairs if pair.where in places for record in pair.records),),
        sources=weighted(files, Counter(example.where.rpartition(":")[0] for example in train[::2])),
        together=PARTS[kind],
    )


def evaluation_answers(data: DataSection, kind: RowKind) -> list[Record]:
    """The rows that a run is evaluated on, each with the answer that is to be learned.

    Raises:
        DataError: files or rows cannot be used.
    """
    if kind is RowKind.ANSWERS:
        return evaluation_records(data)
    _, evaluated = _sides(data, training_files(data), [], ignore)
    return [pair.chosen for pair in evaluated]


def _sides(
    data: DataSection, files: Sequence[RowFile], skipped: list[RowProblem], emit: Subscriber
) -> tuple[list[Pair], list[Pair]]:
    """The pairs to train, and those to evaluate."""
    pairs, eval_files = _read(files, data, skipped, emit), evaluation_files(data, emit)
    if eval_files:
        return pairs, _read(eval_files, data, skipped, emit)
    if not data.held_out:
        return pairs, []
    held = {record.where for record in split_records([pair.chosen for pair in pairs], data)[1]}
    return [pair for pair in pairs if pair.where not in held], [pair for pair in pairs if pair.where in held]


def _read(files: Sequence[RowFile], data: DataSection, skipped: list[RowProblem], emit: Subscriber) -> list[Pair]:
    pairs: list[Pair] = []
    for file in files:
        remarks, said = Remarks(), list[str]()
        found: list[Pair] = []
        problems: list[RowProblem] = []
        for where, row in iterate_rows(file.path, said):
            try:
                if isinstance(row, BadRow):
                    raise row
                found.append(to_pair(row, where, remarks, data.columns))
            except BadRow as problem:
                problems.append(RowProblem(where, str(problem)))
        for note in (*said, *account(str(file.path), len(found), problems, remarks, data.bad_rows)):
            emit(Note(message=note))
        pairs += found
        skipped += problems
    return pairs


def _whole(pair: Pair) -> Record:
    """All that a pair says in one record, by which repeated rows are found."""
    return replace(pair.chosen, messages=pair.chosen.messages + pair.rejected.messages)


def _encode(
    pairs: list[Pair],
    tokenizer: Tokenizer,
    data: DataSection,
    what: str,
    skipped: list[RowProblem],
    emit: Subscriber,
) -> list[Example]:
    audit = RowAudit(tokenizer, data.checks)
    records = [record for pair in pairs for record in pair.records]
    with Stage(emit, f"tokenising {what} rows", total=len(records), unit="answers") as stage:
        encoded = encode_all(
            counted(records, stage),
            tokenizer,
            max_length=data.max_length,
            overlong=data.overlong,
            bad_rows=data.bad_rows,
            audit=audit,
            parts=("chosen", "rejected"),
        )
    skipped += encoded.report.skipped
    for line in (*findings(encoded.report, what), *audit.notes(what)):
        emit(Note(message=line))
    return encoded.examples
