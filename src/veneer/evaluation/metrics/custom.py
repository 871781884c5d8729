"""The user's own metrics: a function in a Python file, and a command that reads rows and prints scores."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from veneer.errors import ConfigError, DataError, listing
from veneer.evaluation.metrics.base import AnsweredRow, TaskMetric, TaskResult
from veneer.evaluation.statistics.measures import mean_of
from veneer.strict_json import to_text, with_reasons

COMMAND = "command:"
"""What the name of a metric begins with that is a command."""

Scores = float | Mapping[str, float | None] | None
RowFunction = Callable[[str, str, Mapping[str, Any]], Scores]
"""Gets an answer, its reference and the row as the file has it; gives a score, several by name, or None for a row that
does not count. Higher is better."""


def python_metric(named: str) -> TaskMetric:
    """The metric of `file.py:function`: the function is called for every row (see `RowFunction`).

    Raises:
        ConfigError: there is no such file or function.
    """
    file, _, name = named.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"--metric {named}: {file} is no file; give FILE.py:FUNCTION")
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--metric {named}: {file} is no Python file; give FILE.py:FUNCTION")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    function = vars(module).get(name)
    if not callable(function):
        known = ", ".join(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise ConfigError(f"--metric {named}: {file} has no function {name!r}; it has {known or 'none'}")

    def metric(rows: Sequence[AnsweredRow]) -> TaskResult:
        return _measured([function(row.answer, row.reference, row.row) for row in rows], rows, name)

    return metric


def command_metric(named: str) -> TaskMetric:
    """The metric of `command:PROGRAM ARGUMENTS`: the program reads a line of JSON for each row from standard input
    (where, prompt, reference, answer, row) and prints a line of JSON for each, in order: a number, null, or an object
    of numbers by name.

    Raises:
        ConfigError: nothing stands behind `command:`.
    """
    arguments = shlex.split(named.removeprefix(COMMAND))
    if not arguments:
        raise ConfigError(f"--metric {named}: give a program behind {COMMAND!r}")

    def metric(rows: Sequence[AnsweredRow]) -> TaskResult:
        lines = [
            {"where": r.where, "prompt": r.prompt, "reference": r.reference, "answer": r.answer, "row": dict(r.row)}
            for r in rows
        ]
        text = "".join(to_text(with_reasons(line), ensure_ascii=False, default=str) + "\n" for line in lines)
        try:
            done = subprocess.run(arguments, input=text.encode(), capture_output=True, check=False)
        except OSError as error:
            raise ConfigError(f"--metric {named}: cannot be run: {error}") from error
        if done.returncode:
            said = done.stderr.decode("utf-8", errors="replace").strip()[-2000:]
            raise ConfigError(f"--metric {named}: ended with code {done.returncode}: {said}")
        # Bytes end a line at line feeds alone; a text would at U+2028 too, which JSON may hold.
        printed = [line for line in done.stdout.splitlines() if line.strip()]
        if len(printed) != len(rows):
            raise ConfigError(
                f"--metric {named}: printed {len(printed)} lines for {len(rows)} rows; print one for each"
            )
        try:
            values = [json.loads(line) for line in printed]
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"--metric {named}: printed a line that is no JSON: {error}") from error
        return _measured(values, rows, Path(arguments[0]).stem)

    return metric


def _measured(values: Sequence[Any], rows: Sequence[AnsweredRow], name: str) -> TaskResult:
    """The means of scores over rows, by name."""
    by_name: dict[str, list[float | None]] = {}
    wrong = []
    for place, value in enumerate(values):
        scores = value if isinstance(value, Mapping) else {name: value}
        for key, score in scores.items():
            if score is not None and not (isinstance(score, int | float) and math.isfinite(score)):
                wrong.append(f"{rows[place].where}: {key} is {score!r}")
                continue
            column = by_name.setdefault(str(key), [None] * len(rows))
            column[place] = None if score is None else float(score)
    if wrong:
        raise DataError(f"the metric {name} gave scores that are no finite numbers:\n{listing(wrong)}")
    measures = []
    for key, column in by_name.items():
        present = [score for score in column if score is not None]
        found = mean_of(key, column, bounded=all(0.0 <= score <= 1.0 for score in present))
        if found is not None:
            measures.append(found)
    return TaskResult(measures)
