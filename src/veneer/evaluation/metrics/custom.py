"""The user's own metrics: a function in a Python file, and a command that reads rows and prints scores."""

from __future__ import annotations

import inspect
import json
import math
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from veneer.errors import ConfigError, DataError, listing
from veneer.evaluation.metrics.base import AnsweredRow, TaskMetric, TaskResult
from veneer.evaluation.metrics.program import ProgramFailed, printed_lines
from veneer.evaluation.statistics.measures import lower_is_better, mean_of, scale_of
from veneer.text.strict_json import to_text, with_reasons

COMMAND = "command:"
"""The prefix of the name of a metric that is a command."""

Scores = float | Mapping[str, float | None] | None
RowFunction = Callable[[str, str, Mapping[str, Any]], Scores]
"""Gets an answer, its reference and the row as the file has it. Returns a score, several scores by name, or None for a
row that does not count. Higher is better."""


def python_metric(named: str) -> TaskMetric:
    """The metric of `file.py:function`: the function is called for every row (see `RowFunction`). It may import modules
    from the folder of the file.

    Raises:
        ConfigError: the file or function does not exist, the file cannot be run, or the function takes other arguments.
    """
    file, _, name = named.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"--metric {named}: {file} is not a file; give FILE.py:FUNCTION")
    spec = spec_from_file_location(f"metric {path.resolve()}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--metric {named}: {file} is not a Python file; give FILE.py:FUNCTION")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    with _strangers(f"--metric {named}: {file} cannot be run"), _importing_from(path.parent):
        spec.loader.exec_module(module)
    function = vars(module).get(name)
    if not callable(function):
        known = ", ".join(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise ConfigError(f"--metric {named}: {file} has no function {name!r}; it has {known or 'none'}")
    _check_arguments(function, named)

    def metric(rows: Sequence[AnsweredRow]) -> TaskResult:
        scores = []
        for row in rows:
            with _strangers(f"--metric {named}: failed on {row.where}"), _importing_from(path.parent):
                scores.append(function(row.answer, row.reference, row.row))
        return _measured(scores, rows, name)

    return metric


def _check_arguments(function: Callable[..., Any], named: str) -> None:
    """Refuse a function that cannot be called with an answer, a reference and a row, before answers are generated.

    Raises:
        ConfigError: the function takes other arguments.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # some C functions do not report their arguments; calling them will show
    try:
        signature.bind("", "", {})
    except TypeError as error:
        raise ConfigError(
            f"--metric {named}: is called with (answer, reference, row), but takes {signature}: {error}"
        ) from error


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Let modules in the folder of the user's file be imported within the block, as when Python runs the file."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


@contextmanager
def _strangers(what: str) -> Iterator[None]:
    """Turn exceptions of the user's own code into an error with their place.

    Raises:
        ConfigError: the code raised an exception, or tried to end the program.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
        raise ConfigError(f"{what}: it raised {told}") from error


def command_metric(named: str) -> TaskMetric:
    """The metric of `command:PROGRAM ARGUMENTS`: the program reads a line of JSON for each row from standard input
    (where, prompt, reference, answer, row) and prints a line of JSON for each, in order: a number, null, or an object
    of numbers by name.

    Raises:
        ConfigError: there is no program after `command:`, or a quotation mark is not closed.
    """
    try:
        arguments = shlex.split(named.removeprefix(COMMAND))
    except ValueError as error:
        raise ConfigError(f"--metric {named}: cannot be split into words: {error}; quote it as in a shell") from error
    if not arguments:
        raise ConfigError(f"--metric {named}: give a program after {COMMAND!r}")

    def metric(rows: Sequence[AnsweredRow]) -> TaskResult:
        lines = [
            {"where": r.where, "prompt": r.prompt, "reference": r.reference, "answer": r.answer, "row": dict(r.row)}
            for r in rows
        ]
        text = "".join(to_text(with_reasons(line), ensure_ascii=False, default=str) + "\n" for line in lines)
        try:
            values = [json.loads(line) for line in printed_lines(arguments, text.encode(), len(rows))]
        except ProgramFailed as error:
            raise ConfigError(f"--metric {named}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"--metric {named}: printed a line that is not JSON: {error}") from error
        return _measured(values, rows, Path(arguments[0]).stem)

    return metric


def _measured(values: Sequence[Any], rows: Sequence[AnsweredRow], name: str) -> TaskResult:
    """The means of scores over rows, by name.

    Raises:
        ConfigError: a score has the name of a measure of which lower is better.
        DataError: scores are not finite numbers; their rows are named.
    """
    by_name: dict[str, list[float | None]] = {}
    wrong = []
    for place, value in enumerate(values):
        scores = value if isinstance(value, Mapping) else {name: value}
        for key, score in scores.items():
            number = None if score is None else _number(score)
            if score is not None and number is None:
                wrong.append(f"{rows[place].where}: {key} is {str(score)[:40]!r}")
                continue
            by_name.setdefault(str(key), [None] * len(rows))[place] = number
    if wrong:
        raise DataError(f"the metric {name} gave scores that are not finite numbers:\n{listing(wrong)}")
    turned = [key for key in by_name if lower_is_better(key)]
    if turned:
        raise ConfigError(
            f"the metric {name} gives {', '.join(turned)}, a name of veneer for a measure of which lower is better. "
            "For your own metric higher is better: give it another name"
        )
    measures = []
    for key, column in by_name.items():
        present = [score for score in column if score is not None]
        found = mean_of(key, column, scale=scale_of(present))
        if found is not None:
            measures.append(found)
    return TaskResult(measures)


def _number(score: Any) -> float | None:
    """A score as a number (numpy's included); None if it is not a number, or not finite."""
    if not isinstance(score, Real | np.bool_):
        return None
    try:
        number = float(score)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
