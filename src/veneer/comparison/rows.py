"""The rows of a comparison: split and drawn once, into files of their own, the same for every run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from veneer.comparison.order import RESULT_FILE
from veneer.comparison.pairs import chosen_row, read_pairs, scored_row
from veneer.comparison.settings import SOURCES, CompareConfig, key_of
from veneer.config import parse
from veneer.config.values import override
from veneer.data.orders import order as shuffled
from veneer.data.records import Record, read_rows
from veneer.data.sources import files_named
from veneer.data.splits import split
from veneer.errors import ConfigError, OutputError, listing
from veneer.io.checkpoint import open_checkpoint
from veneer.io.files import sampled_digest, write_text
from veneer.run_folder import RunFolder
from veneer.strict_json import to_text

SETTINGS_FILE = "settings.json"
RUNS = "runs"
"""The folder that holds those of the runs."""


@dataclass(frozen=True, slots=True)
class ComparedRows:
    """The files that runs train on and are scored on, and how many rows they have."""

    train_files: list[str]
    """The rows to train on, a file for each source."""
    weights: list[float]
    """The weight of each source; empty where there is one file without any."""
    eval_file: str
    training: int
    evaluation: int
    pairs_file: str | None = None
    """The pairs to train on behind the rows, if any."""


def prepare_rows(config: CompareConfig, output: Path) -> ComparedRows:
    """Split and draw the rows into files of their own, the same for every run, and refuse a folder of other ones.

    Raises:
        ConfigError, DataError: rows cannot be used.
        OutputError: the folder holds another comparison, or cannot be written.
    """
    if config.preference is not None:
        return _prepare_pairs(config, output)
    sources, weights = _sources(config)
    rows = [_read(name) for name in sources]
    if config.eval_data is None:
        _, evaluated = split([record for source in rows for record, _ in source], config.held_out)
        apart = {record.where for record in evaluated}
        scored = [row for source in rows for record, row in source if record.where in apart]
    else:
        apart = set()
        scored = [row for _, row in _read(config.eval_data)]
    training = [[row for record, row in source if record.where not in apart] for source in rows]
    scored = _drawn(config, scored)
    names = [f"train-{number}.jsonl" for number in range(len(training))] if weights else ["train.jsonl"]
    *training_files, eval_file = _written(config, output, dict(zip(names, training, strict=True)), scored, weights)
    return ComparedRows(training_files, weights, eval_file, sum(map(len, training)), len(scored))


def _prepare_pairs(config: CompareConfig, output: Path) -> ComparedRows:
    """What `prepare_rows` makes of pairs: their chosen answers, the pairs themselves, and the answers of others."""
    assert config.data is not None, "the settings were checked"
    rows = read_pairs(config.data)
    if config.eval_data is None:
        _, evaluated = split([pair.chosen for pair, _ in rows], config.held_out)
        apart = {record.where for record in evaluated}
        scored = [one for one in rows if one[0].where in apart]
        rows = [one for one in rows if one[0].where not in apart]
    else:
        scored = read_pairs(config.eval_data)
    answers = _drawn(config, [scored_row(*one) for one in scored])
    parts = {"train.jsonl": [chosen_row(*one) for one in rows], "pairs.jsonl": [row for _, row in rows]}
    train_file, pairs_file, eval_file = _written(config, output, parts, answers, [])
    return ComparedRows([train_file], [], eval_file, len(rows), len(answers), pairs_file)


def _drawn(config: CompareConfig, scored: list[Any]) -> list[Any]:
    """The evaluation rows that are scored."""
    if config.limit is None or config.limit >= len(scored):
        return scored
    drawn = sorted(shuffled(len(scored), seed=0, epoch=0)[: config.limit].tolist())
    return [scored[index] for index in drawn]


def _written(
    config: CompareConfig, output: Path, parts: Mapping[str, Sequence[Any]], scored: Sequence[Any], weights: list[float]
) -> list[str]:
    """Write the rows of every run, and what must be equal in another call; returns the files, that of evaluation last.

    Raises:
        OutputError: the folder holds a comparison of something else.
    """
    files = [output / name for name in (*parts, "eval.jsonl")]
    contents = ["".join(_line(row) for row in part) for part in (*parts.values(), scored)]
    settings = _settings(config, contents, weights)
    _refuse_another(output / SETTINGS_FILE, settings)
    for file, content in zip(files, contents, strict=True):
        write_text(file, content)
    write_text(output / SETTINGS_FILE, to_text(settings, indent=1) + "\n")
    return [str(file) for file in files]


def _sources(config: CompareConfig) -> tuple[list[str], list[float]]:
    """The names of the sources of rows, and the weight of each; of a single file without weights there are none.

    Raises:
        ConfigError: `data.sources` is no list of files and weights.
    """
    if config.data is not None:
        return [config.data], []
    texts = [text for text in config.assignments if key_of(text) == SOURCES]
    values = override({"model": config.model, "output": config.output}, texts[-1:])
    sources = parse(values, where=SOURCES).data.sources
    if not sources:
        raise ConfigError("data.sources names no file; give --data, or at least one source")
    return [source.file for source in sources], [source.weight for source in sources]


def _read(name: str) -> list[tuple[Record, Any]]:
    """Every row of the files that a name means."""
    return [row for file in files_named(name) for row in read_rows(file)]


def _line(row: Any) -> str:
    # Parquet has values that JSON has not, in columns that nobody reads.
    return to_text(row, ensure_ascii=False, default=str) + "\n"


def _settings(config: CompareConfig, contents: Sequence[str], weights: Sequence[float]) -> dict[str, Any]:
    """What must be equal for results to stand in one table. Methods and seeds may be added."""
    *training, scored = (sha256(content.encode()).hexdigest() for content in contents)
    return {
        "model": sampled_digest(open_checkpoint(config.model).files()),
        "training rows": training if weights or config.preference else training[0],
        "evaluation rows": scored,
        "longest answer": config.max_new_tokens,
        # Of the sources their rows count, wherever these lie.
        "settings": [text for text in _lasting(config.assignments) if key_of(text) != SOURCES],
        **({"weights of data.sources": list(weights)} if weights else {}),
        **({"preference": config.preference.value} if config.preference else {}),
        **{f"settings of {method.value}": _lasting(more) for method, more in config.more.items()},
    }


def _lasting(assignments: Sequence[str]) -> list[str]:
    """The assignments that count, sorted: of several with one key the last."""
    return sorted({key_of(text): text for text in assignments}.values())


def _refuse_another(path: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder that holds another comparison of which a run was begun. A comparison that was refused itself, for
    a misspelt setting say, keeps nobody from the folder."""
    runs = (path.parent / RUNS).glob("*/")
    begun = any((run / RESULT_FILE).exists() or RunFolder(run).events_file.exists() for run in runs)
    if not begun or not path.is_file():
        return
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise OutputError(f"{path}: not what veneer wrote ({error}); give another output folder") from error
    other = [
        f"{key}: {before.get(key, 'none')} there, {settings.get(key, 'none')} now"
        for key in dict.fromkeys([*settings, *before])
        if before.get(key) != settings.get(key)
    ]
    if other:
        raise OutputError(
            f"{path.parent} holds a comparison of something else; give another output folder:\n{listing(other)}"
        )


def trained_on(rows: ComparedRows) -> dict[str, Any]:
    """What a run trains on."""
    if not rows.weights:
        return {"data.file": rows.train_files[0]}
    pairs = zip(rows.train_files, rows.weights, strict=True)
    return {SOURCES: [{"file": file, "weight": weight} for file, weight in pairs]}
