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
"""What the name of a metric begins with that is a command."""

Scores = float | Mapping[str, float | None] | None
RowFunction = Callable[[str, str, Mapping[str, Any]], Scores]
"""Gets an answer, its reference and the row as the file has it; gives a score, several by name, or None for a row that
does not count. Higher is better."""


def python_metric(named: str) -> TaskMetric:
    """The metric of `file.py:function`: the function is called for every row (see `RowFunction`). It may import what
    lies beside the file.

    Raises:
        ConfigError: there is no such file or function, the file cannot be run, or the function takes something else.
    """
    file, _, name = named.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"--metric {named}: {file} is no file; give FILE.py:FUNCTION")
    spec = spec_from_file_location(f"metric {path.resolve()}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--metric {named}: {file} is no Python file; give FILE.py:FUNCTION")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
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
    """Refuse a function that cannot be called with an answer, a reference and a row, before answers are waited for.

    Raises:
        ConfigError: it takes something else.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # some functions of C do not say what they take; a call will
    try:
        signature.bind("", "", {})
    except TypeError as error:
        raise ConfigError(
            f"--metric {named}: is called with (answer, reference, row), and takes {signature}: {error}"
        ) from error


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """What lies beside the user's file can be imported within the block, as where Python runs the file."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


@contextmanager
def _strangers(what: str) -> Iterator[None]:
    """What the user's own code raises becomes an error that says where.

    Raises:
        ConfigError: anything was raised, or the code wanted to end the program.
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
        ConfigError: nothing stands behind `command:`, or a quotation mark is not closed.
    """
    try:
        arguments = shlex.split(named.removeprefix(COMMAND))
    except ValueError as error:
        raise ConfigError(f"--metric {named}: cannot be taken apart: {error}; quote it as a shell wants it") from error
    if not arguments:
        raise ConfigError(f"--metric {named}: give a program behind {COMMAND!r}")

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
            raise ConfigError(f"--metric {named}: printed a line that is no JSON: {error}") from error
        return _measured(values, rows, Path(arguments[0]).stem)

    return metric


def _measured(values: Sequence[Any], rows: Sequence[AnsweredRow], name: str) -> TaskResult:
    """The means of scores over rows, by name.

    Raises:
        ConfigError: a name stands for a measure of which less is better.
        DataError: scores are no finite numbers; their rows are named.
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
        raise DataError(f"the metric {name} gave scores that are no finite numbers:\n{listing(wrong)}")
    turned = [key for key in by_name if lower_is_better(key)]
    if turned:
        raise ConfigError(
            f"the metric {name} gives {', '.join(turned)}, which veneer takes for a measure of which less is better; "
            "of your own more is better: name it otherwise"
        )
    measures = []
    for key, column in by_name.items():
        present = [score for score in column if score is not None]
        found = mean_of(key, column, scale=scale_of(present))
        if found is not None:
            measures.append(found)
    return TaskResult(measures)


def _number(score: Any) -> float | None:
    """A score as a number, numpy's among them; None where it is none, or not finite."""
    if not isinstance(score, Real | np.bool_):
        return None
    try:
        number = float(score)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
