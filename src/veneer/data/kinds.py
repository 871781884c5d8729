"""The rows of a run by their kind: read from their files, split, and encoded with all of their answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from veneer.config import DataSection
from veneer.data.account import LISTED, one_label_note, overlap_note, repeats_note
from veneer.data.encoded.chat import start_template
from veneer.data.encoded.encoding import encoder_of, nothing_left, refuse_problems
from veneer.data.files.json_values import BadRow
from veneer.data.files.readers import iterate_rows
from veneer.data.files.sources import RowFile, RunFiles, run_files, training_files
from veneer.data.forms.formats import Remarks
from veneer.data.forms.prompts import EncodedPrompts, encode_prompts, unasked_notes
from veneer.data.kind_rows import PARTS, KindRow, to_kind
from veneer.data.problems import RowProblem
from veneer.data.records import Record, account, duplicates, overlap
from veneer.data.rows import Rows, encode_sides, load_rows, weighted
from veneer.data.splits import evaluation_records, split_rows
from veneer.data.trained_rows import row_hashes
from veneer.enums import RowKind, SplitBy
from veneer.events import Level, Note, Stage, Subscriber, counted, ignore, notes_to
from veneer.io.tokenizer import Tokenizer
from veneer.text.counting import count_of

SPLIT_BY_ANSWER = (
    "data.split by label holds out a share of the rows of each answer, and not of desirable and undesirable ones; for "
    "that name the column that tells them apart (data.split.column: label)"
)


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
    if kind in (RowKind.ANSWERS, RowKind.TEXTS):
        return load_rows(data, tokenizer, emit, kind)
    start_template(tokenizer)
    files, notice = run_files(data, emit), notes_to(emit)
    rows, evaluated, skipped = _sides(data, files, kind, emit)
    shared = overlap([row.whole for row in rows], [row.whole for row in evaluated])
    if shared:
        notice(overlap_note(len(shared), len(evaluated), *shared[0]))
    repeats = duplicates([row.whole for row in rows])
    if repeats:
        notice(repeats_note(len(repeats), *repeats[0]))
    if kind is RowKind.PROMPTS:
        return _prompts(rows, evaluated, files, tokenizer, data, skipped, emit)
    parts = PARTS[kind]
    trained, measured = ([record for row in side for record in row.records] for side in (rows, evaluated))
    encoded = encode_sides(trained, measured, tokenizer, data, emit, parts=parts, unit="answers")
    train, held_out = encoded.train, encoded.eval
    places = {example.where for example in train}
    labels = {row.where: row.desirable for row in (*rows, *evaluated)}
    told = {labels[one.where] for one in train}
    if kind is RowKind.LABELLED and len(train) > 1 and len(told) == 1:
        notice(one_label_note(len(train), told.pop()))
    margins = {row.where: row.margin or 0.0 for row in (*rows, *evaluated)}
    by_how_much = any(row.margin is not None for row in (*rows, *evaluated))
    return Rows(
        train=train,
        eval=held_out,
        skipped=(*skipped, *encoded.skipped),
        hashes=(row_hashes(record for row in rows if row.where in places for record in row.records),),
        sources=weighted(files.train, Counter(example.where.rpartition(":")[0] for example in train[:: len(parts)])),
        together=len(parts),
        labels=tuple(labels[one.where] for one in (*train, *held_out)) if kind is RowKind.LABELLED else (),
        margins=tuple(margins[one.where] for part in (train, held_out) for one in part[:: len(parts)])
        if by_how_much
        else (),
        files=files,
    )


def _prompts(
    rows: list[KindRow],
    evaluated: list[KindRow],
    files: RunFiles,
    tokenizer: Tokenizer,
    data: DataSection,
    skipped: list[RowProblem],
    emit: Subscriber,
) -> Rows:
    """The rows of a run that samples its answers."""
    for note in unasked_notes([row.prompt for row in (*rows, *evaluated) if row.prompt is not None]):
        emit(Note(message=note, level=Level.WARNING))
    train = _encode_prompts(rows, tokenizer, data, "training", emit)
    held_out = _encode_prompts(evaluated, tokenizer, data, "evaluation", emit)
    if not train.prompts:
        raise nothing_left(len(rows), data.max_length, len(train.overlong), max(train.overlong.values(), default=0), 0)
    return Rows(
        train=train.examples,
        eval=held_out.examples,
        skipped=(*skipped, *train.problems, *held_out.problems),
        hashes=(row_hashes(one.record for one in train.prompts),),
        sources=weighted(files.train, Counter(example.where.rpartition(":")[0] for example in train.examples)),
        prompts=(*train.prompts, *held_out.prompts),
        files=files,
    )


def _encode_prompts(
    rows: list[KindRow], tokenizer: Tokenizer, data: DataSection, what: str, emit: Subscriber
) -> EncodedPrompts:
    prompts = [row.prompt for row in rows if row.prompt is not None]
    with Stage(emit, f"tokenising {what} prompts", total=len(prompts), unit="prompts") as stage:
        found = encode_prompts(list(counted(prompts, stage)), encoder_of(tokenizer), data.max_length)
    refuse_problems(found.problems, len(found.prompts), data.bad_rows, checked=False)
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
        named = ", ".join(list(found.overlong)[:LISTED]) + (" and more" if len(found.overlong) > LISTED else "")
        message = (
            f"{count_of(len(found.overlong), f'{what} prompt')} "
            f"longer than data.max_length={data.max_length} and left out"
        )
        emit(Note(message=f"{message}: {named}"))
    return found


def evaluation_answers(data: DataSection, kind: RowKind, files: RunFiles) -> list[Record]:
    """The rows that a run over some files is evaluated on, each with the answer that is to be learned.

    Raises:
        DataError: files or rows cannot be used.
    """
    if kind in (RowKind.ANSWERS, RowKind.TEXTS):
        return evaluation_records(data, files, kind)
    _, evaluated, _ = _sides(data, files, kind, ignore)
    return [row.records[0] for row in evaluated if row.desirable]


def read_pairs(data: DataSection, emit: Subscriber = ignore) -> list[KindRow]:
    """The pairs of a chosen and a rejected answer in the training files of `data`, without encoding them.

    Raises:
        DataError: a file or some of its rows cannot be used.
    """
    pairs, _ = _read(training_files(data, emit), data, RowKind.PAIRS, emit)
    return pairs


def _sides(
    data: DataSection, files: RunFiles, kind: RowKind, emit: Subscriber
) -> tuple[list[KindRow], list[KindRow], list[RowProblem]]:
    """The rows to train, those to evaluate, and those that are left out."""
    rows, skipped = _read(files.train, data, kind, emit)
    if files.eval:
        evaluated, further = _read(files.eval, data, kind, emit)
        return rows, evaluated, skipped + further
    if not data.held_out:
        return rows, [], skipped
    if kind is RowKind.LABELLED and data.split.by is SplitBy.LABEL and data.split.column is None:
        emit(Note(message=SPLIT_BY_ANSWER, level=Level.WARNING))
    return *split_rows(rows, [row.records[0] for row in rows], data, files.train, emit), skipped


def _read(
    files: Sequence[RowFile], data: DataSection, kind: RowKind, emit: Subscriber
) -> tuple[list[KindRow], list[RowProblem]]:
    """The rows of files, and those that are left out."""
    rows: list[KindRow] = []
    skipped: list[RowProblem] = []
    for file in files:
        remarks, said = Remarks(), list[str]()
        found: list[KindRow] = []
        problems: list[RowProblem] = []
        for where, row in iterate_rows(file.path, said, data.columns):
            try:
                if isinstance(row, BadRow):
                    raise row
                found.append(to_kind(row, where, kind, remarks, data.columns))
            except BadRow as problem:
                problems.append(RowProblem(where, str(problem)))
        said += account(str(file.path), len(found), problems, remarks, data.bad_rows, data.split.column)
        for note in said:
            emit(Note(message=note))
        rows += found
        skipped += problems
    return rows, skipped
