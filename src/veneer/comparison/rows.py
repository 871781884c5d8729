"""The rows of a comparison: split and drawn once, into its own files, which are the same for every run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from veneer.claims import SETTINGS_FILE, refuse_strangers
from veneer.comparison.order import RESULT_FILE
from veneer.comparison.pairs import chosen_row, read_pairs, scored_row
from veneer.comparison.request import SOURCES, CompareRequest, key_of
from veneer.config import DataSection, parse
from veneer.config.values import flat, laid_over, override
from veneer.data.files.readers import iterate_rows
from veneer.data.files.sources import RowFile, files_named
from veneer.data.forms.record import Record
from veneer.data.micro_batches.orders import order as shuffled
from veneer.data.problems import RowProblem, grouped
from veneer.data.records import collect
from veneer.data.splits import held_out
from veneer.data.trained_rows import rows_also_in
from veneer.enums import Column
from veneer.errors import ConfigError, DataError, OutputError, listing
from veneer.evaluation.statistics.power import said_of_few
from veneer.events import Level, Note, Subscriber
from veneer.io.checkpoint import open_checkpoint
from veneer.io.digests import sampled_digest
from veneer.io.files import write_text
from veneer.run_folder import RunFolder
from veneer.text.counting import count_of
from veneer.text.strict_json import to_text, with_reasons

COMPARISON_FILE = "compare.json"
RUNS = "runs"
"""The folder with the folders of the runs."""
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class ComparedRows:
    """The files that runs train on and are scored on, and the numbers of their rows."""

    train_files: list[str]
    """The rows to train on, one file for each source."""
    weights: list[float]
    """The weight of each source; empty if there is one file without weights."""
    eval_file: str
    training: int
    evaluation: int
    pairs_file: str | None = None
    """The pairs to train on after the rows, if any."""
    warnings: list[str] = field(default_factory=list)
    """Warnings about the measures: rows are both trained and scored, or few rows are scored."""


def prepare_rows(request: CompareRequest, output: Path, emit: Subscriber) -> ComparedRows:
    """Split and draw the rows into the comparison's own files; refuse a folder with files of another comparison.

    Args:
        request: the comparison.
        output: the folder of the comparison.
        emit: receives notes about rows that are left out, and warnings about the scored rows.

    Raises:
        ConfigError, DataError: rows cannot be used.
        OutputError: the folder contains another comparison, or cannot be written.
    """
    data = _row_settings(request)
    if request.preference is not None:
        return _prepare_pairs(request, data, output, emit)
    sources, weights = _sources(request, data)
    rows = [_read(name, data, emit) for name in sources]
    if request.eval_data is None:
        apart = _held_out([record for source in rows for record, _ in source], data, sources)
        scored = [one for source in rows for one in source if one[0].where in apart]
    else:
        apart = set()
        scored = _read(request.eval_data, data, emit)
    training = [_lines(one for one in source if one[0].where not in apart) for source in rows]
    scored = _drawn(request, scored)
    names = [f"train-{number}.jsonl" for number in range(len(training))] if weights else ["train.jsonl"]
    *training_files, eval_file = _written(
        request, output, dict(zip(names, training, strict=True)), _lines(scored), weights
    )
    trained = (record for source in rows for record, _ in source if record.where not in apart)
    warnings = _warnings(trained, [record for record, _ in scored], emit)
    return ComparedRows(training_files, weights, eval_file, sum(map(len, training)), len(scored), warnings=warnings)


def _prepare_pairs(request: CompareRequest, data: DataSection, output: Path, emit: Subscriber) -> ComparedRows:
    """`prepare_rows` for pairs: their chosen answers, the pairs themselves, and answers of other pairs to score."""
    assert request.data is not None, "the settings were checked"
    rows = read_pairs(request.data, data.columns, data.bad_rows, emit)
    if request.eval_data is None:
        apart = _held_out([pair.chosen for pair, _ in rows], data, [request.data])
        scored = [one for one in rows if one[0].where in apart]
        rows = [one for one in rows if one[0].where not in apart]
    else:
        scored = read_pairs(request.eval_data, data.columns, data.bad_rows, emit)
    scored = _drawn(request, scored)
    answers = [(pair.chosen, scored_row(pair, row)) for pair, row in scored]
    parts = {
        "train.jsonl": _lines((pair.chosen, chosen_row(pair, row)) for pair, row in rows),
        "pairs.jsonl": _lines((pair.chosen, row) for pair, row in rows),
    }
    train_file, pairs_file, eval_file = _written(request, output, parts, _lines(answers), [])
    warnings = _warnings((pair.chosen for pair, _ in rows), [pair.chosen for pair, _ in scored], emit)
    return ComparedRows([train_file], [], eval_file, len(rows), len(answers), pairs_file, warnings)


def _warnings(trained: Iterable[Record], scored: Sequence[Record], emit: Subscriber) -> list[str]:
    """Warnings about the rows that are scored, which are also emitted."""
    found = said_of_few(len(scored), "row")
    both = rows_also_in(trained, scored)
    if both:
        found.append(
            f"{len(both)} of {count_of(len(scored), 'row')} to score are also trained, so all measures but the base's "
            f"are too good by an unknown amount. Score other rows:\n{listing(both)}"
        )
    for warning in found:
        emit(Note(message=warning, level=Level.WARNING))
    return found


def _held_out(records: list[Record], data: DataSection, names: Sequence[str]) -> set[str]:
    """Where the records of some sources are that are scored and not trained, by `data.held_out` and `data.split`."""
    files = [RowFile(path, name) for name in names for path in files_named(name)]
    held = held_out(records, data, files)
    return {record.where for record, is_held in zip(records, held, strict=True) if is_held}


def _drawn(request: CompareRequest, scored: list[Row]) -> list[Row]:
    """The evaluation rows that are scored."""
    if request.limit is None or request.limit >= len(scored):
        return scored
    drawn = sorted(shuffled(len(scored), seed=0, epoch=0)[: request.limit].tolist())
    return [scored[index] for index in drawn]


def _written(
    request: CompareRequest, output: Path, parts: Mapping[str, list[str]], scored: list[str], weights: list[float]
) -> list[str]:
    """Write the rows of every run, and the settings that another call must repeat; returns the files, the evaluation
    file last.

    Raises:
        OutputError: the folder contains another comparison, or other files that would be overwritten.
    """
    files = [output / name for name in (*parts, "eval.jsonl")]
    contents = ["".join(part) for part in (*parts.values(), scored)]
    settings = _settings(request, contents, weights)
    names = [*(file.name for file in files), COMPARISON_FILE]
    refuse_strangers(output, names, "comparison")
    _refuse_another(output / SETTINGS_FILE, settings)
    # Written first, since it says whose the other files are.
    write_text(output / SETTINGS_FILE, to_text(settings, indent=1) + "\n")
    for file, content in zip(files, contents, strict=True):
        write_text(file, content)
    return [str(file) for file in files]


def _row_settings(request: CompareRequest) -> DataSection:
    """The runs' settings about the rows, with the way in which they are split here.

    Raises:
        ConfigError: the settings are invalid.
    """
    own: dict[str, Any] = {"model": request.model, "output": request.output}
    own |= {"data.file": request.data} if request.data else {}
    own |= {"data.eval_file": request.eval_data} if request.eval_data else {"data.held_out": request.held_out}
    texts = [text for text in request.assignments if key_of(text).partition(".")[0] == "data"]
    return parse(laid_over(override({}, texts), own.items()), where="the settings of the rows").data


def scored_columns(request: CompareRequest) -> Mapping[Column, str]:
    """Maps veneer's name of a column to the name in the scored rows, if they differ. Pairs are written with veneer's
    own names, since the rows for fine-tuning are made from them.

    Raises:
        ConfigError: settings of the rows are invalid.
    """
    return {} if request.preference is not None else _row_settings(request).columns


def _sources(request: CompareRequest, data: DataSection) -> tuple[list[str], list[float]]:
    """The names of the sources of rows, and the weight of each; a single file without weights has none.

    Raises:
        ConfigError: `data.sources` names no file.
    """
    if request.data is not None:
        return [request.data], []
    if not data.sources:
        raise ConfigError("data.sources names no file; give --data, or at least one source")
    return [source.file for source in data.sources], [source.weight for source in data.sources]


def _read(name: str, data: DataSection, emit: Subscriber) -> list[tuple[Record, Any]]:
    """Every row of the files that a name means, except unusable rows that may be left out; a note names them."""
    found: list[tuple[Record, Any]] = []
    for file in files_named(name):
        raw = dict(iterate_rows(file, columns=data.columns))
        read = collect(raw.items(), str(file), columns=data.columns, bad_rows=data.bad_rows)
        if read.skipped:
            emit(Note(message=read.notes[0]))
        found += [(record, raw[record.where]) for record in read.records]
    return found


def _lines(rows: Iterable[tuple[Record, Any]]) -> list[str]:
    """Rows as lines of JSON, in the form that the files have.

    Raises:
        DataError: rows contain values that JSON cannot have; all are named.
    """
    lines, problems = list[str](), list[RowProblem]()
    for record, row in rows:
        try:
            # Parquet has values that JSON does not have, possibly in columns that are never read.
            lines.append(to_text(row, ensure_ascii=False, default=str) + "\n")
        except OutputError as error:
            problems.append(RowProblem(record.where, str(error)))
    if problems:
        raise DataError(
            f"{count_of(len(problems), 'row')} cannot be written for the runs; remove these numbers, also from columns "
            f"that are not read:\n{grouped(problems)}"
        )
    return lines


def _settings(request: CompareRequest, contents: Sequence[str], weights: Sequence[float]) -> dict[str, Any]:
    """The settings that must be equal for results to be in one table. Methods and seeds may be added."""
    *training, scored = (sha256(content.encode()).hexdigest() for content in contents)
    return {
        "model": sampled_digest(open_checkpoint(request.model).files()),
        "training rows": training if weights or request.preference else training[0],
        "evaluation rows": scored,
        "longest answer": request.max_new_tokens,
        # The content of the sources counts, wherever they are.
        **{f"setting {key}": value for key, value in _in_effect(request.assignments).items() if key != SOURCES},
        **({"weights of data.sources": list(weights)} if weights else {}),
        **({"preference": request.preference.value} if request.preference else {}),
        **{
            f"setting {key} of {method.value}": value
            for method, more in request.more.items()
            for key, value in _in_effect(more).items()
        },
    }


def _in_effect(assignments: Sequence[str]) -> dict[str, Any]:
    """Settings by their dotted keys, in whatever order and notation they were given: of several values of a key, the
    last."""
    values = with_reasons(flat(override({}, assignments)))
    return {key: _number_or_same(json.loads(to_text(values[key], default=str))) for key in sorted(values)}


def _number_or_same(value: Any) -> Any:
    """A text that is a number as this number, as a setting of numbers reads it: 1e-4 is a text in YAML 1.1."""
    if isinstance(value, str):
        with suppress(ValueError):
            number = float(value)
            return number if math.isfinite(number) else value
    return value


def _refuse_another(path: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder with another comparison of which a run was begun. A comparison that failed at once, for example
    because of a misspelt setting, does not block the folder."""
    runs = (path.parent / RUNS).glob("*/")
    begun = any((run / RESULT_FILE).exists() or RunFolder(run).events_file.exists() for run in runs)
    if not begun or not path.is_file():
        return
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise OutputError(f"{path}: not what veneer wrote ({error}); give another output folder") from error
    other = [
        f"{key}: {_shown(before, key)} there, {_shown(settings, key)} now"
        for key in dict.fromkeys([*settings, *before])
        if (key in before, before.get(key)) != (key in settings, settings.get(key))
    ]
    if other:
        raise OutputError(f"{path.parent} contains another comparison; give another output folder:\n{listing(other)}")


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return to_text(settings[key]) if key in settings else "none"


def trained_on(rows: ComparedRows) -> dict[str, Any]:
    """The settings for what a run trains on."""
    if not rows.weights:
        return {"data.file": rows.train_files[0]}
    pairs = zip(rows.train_files, rows.weights, strict=True)
    return {SOURCES: [{"file": file, "weight": weight} for file, weight in pairs]}
