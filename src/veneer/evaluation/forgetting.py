"""What was forgotten: other suites, which base and adapter answer in the same loading that scores the task.

A suite is one that comes with veneer (`arithmetic`), any file of rows (`own.jsonl`), a task of lm-evaluation-harness
(`lm-eval:arc_easy`), or `kl:FILE`, which measures how far the adapter's predictions have moved from the base's on the
texts of a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from veneer.assistant.assistant import Assistant
from veneer.data.forms.formats import to_record
from veneer.data.records import read_rows
from veneer.errors import ConfigError, listing, nearest
from veneer.evaluation.divergence import row_divergences
from veneer.evaluation.harness import HARNESS, check_tasks, is_task, open_task
from veneer.evaluation.metrics.choose import ChosenMetrics
from veneer.evaluation.rows import RowSet, fitting, prepare, prepare_choices, score_model
from veneer.evaluation.statistics.compare import Comparison, contrast
from veneer.evaluation.statistics.measures import Measure, ratio
from veneer.evaluation.suites.base import MOST_ITEMS
from veneer.evaluation.suites.registry import SUITES
from veneer.events import Stage, Subscriber

KL = "kl:"
"""The prefix of the name of a suite that measures the divergence on the texts of a file."""
ITEMS = 400
"""The number of items of a generated suite if none is given."""


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """Base and adapter on one suite."""

    name: str
    rows: int
    summary: str
    """What the suite asks for."""
    comparison: Comparison
    """The suite's primary measure; for a divergence, the base's value is 0."""
    others: list[Comparison] = field(default_factory=list)
    """The suite's other measures; their p values are adjusted for their number."""


class OpenSuite(Protocol):
    """A suite whose rows are read or generated, and prepared for the model."""

    @property
    def name(self) -> str:
        """The name as `--suite` takes it."""
        ...

    @property
    def summary(self) -> str:
        """What the suite asks for."""
        ...

    @property
    def count(self) -> int:
        """The number of its rows."""
        ...

    @property
    def primary(self) -> str | None:
        """The name of the suite's primary measure; None takes the first one."""
        ...

    @property
    def share_of(self) -> int | None:
        """The number of rows that this measure is a share of; None if it is not a share of rows."""
        ...

    def measures(self, assistant: Assistant, *, base: bool, emit: Subscriber) -> list[Measure]:
        """The measures of the model in its present state on the suite; `base` says that its adapter is switched off."""
        ...


@dataclass(frozen=True, slots=True)
class RowSuite:
    """A suite of rows with answers."""

    name: str
    summary: str
    rows: RowSet
    chosen: ChosenMetrics

    @property
    def count(self) -> int:
        """The number of its rows."""
        return len(self.rows.records)

    @property
    def primary(self) -> str | None:
        """The name of the suite's primary measure."""
        return self.chosen.primary

    @property
    def share_of(self) -> int | None:
        """The number of rows with an answer, whose measure is a share of them; plain texts have a loss only."""
        return len(self.rows.asked) or None

    def measures(self, assistant: Assistant, *, base: bool, emit: Subscriber) -> list[Measure]:
        """The measures of the model on the rows."""
        return score_model(assistant, self.rows, self.chosen, emit=emit, who=_who(self.name, base)).measures


@dataclass(frozen=True, slots=True)
class DivergenceSuite:
    """Texts on which predictions are compared."""

    name: str
    summary: str
    rows: RowSet
    primary: str | None = "kl"
    share_of: int | None = None

    @property
    def count(self) -> int:
        """The number of its texts."""
        return len(self.rows.records)

    def measures(self, assistant: Assistant, *, base: bool, emit: Subscriber) -> list[Measure]:
        """The divergence from the base, which is 0 for the base itself."""
        adapter, rows = assistant.adapter, self.rows
        tokens = [float(example.supervised) for example in rows.examples]
        if base or adapter is None:
            return [ratio("kl", [0.0] * len(tokens), tokens)]
        stage = Stage(emit, f"comparing predictions: {_who(self.name, base)}", total=len(rows.examples), unit="rows")
        with stage:
            sums = row_divergences(assistant.model, adapter, rows.examples, on_done=stage.advance)
        return [ratio("kl", sums, tokens)]


def _who(name: str, base: bool) -> str:
    return f"{'base' if base else 'adapter'} on {name}"


def check_suites(names: Sequence[str], items: int | None = None) -> None:
    """Refuse names that are not a suite, a file or a task, before anything is loaded.

    Args:
        names: the names as `--suite` takes them.
        items: the requested number of items.

    Raises:
        ConfigError: there are such names (all are listed); lm-eval is needed and not installed; a generated suite has
            fewer items than requested; or a number of items is given and no suite takes one.
    """
    check_tasks([name for name in names if is_task(name)])
    unknown = [
        name for name in names if name not in SUITES and not is_task(name) and not Path(name.removeprefix(KL)).is_file()
    ]
    if unknown:
        lines = [f"{name}{nearest(name, list(SUITES))}" for name in unknown]
        raise ConfigError(
            f"--suite: no suite or file of that name:\n{listing(lines)}\n"
            f"possible are {', '.join(SUITES)}, a file of rows, kl:FILE, and {HARNESS}TASK"
        )
    generated = [name for name in names if name in SUITES]
    if items is not None and not (generated or any(map(is_task, names))):
        raise ConfigError(
            f"--suite-items: {items:,} has no effect: there is no generated suite and no task, and files are measured "
            "whole; leave it out"
        )
    if generated and (items or 0) > MOST_ITEMS:
        raise ConfigError(
            f"--suite-items: {items:,} is too many: a generated suite ({', '.join(generated)}) has {MOST_ITEMS:,}; "
            "give fewer"
        )


def open_suite(name: str, items: int | None, assistant: Assistant, emit: Subscriber) -> OpenSuite:
    """Make or read the rows of a suite and prepare them.

    Args:
        name: the name as `--suite` takes it.
        items: the number of items of a generated suite or a task; None takes 400 of a suite, and all of a task.
        assistant: the model that the rows are prepared for.
        emit: receives the progress.

    Raises:
        DataError: the rows of a file cannot be used.
        ConfigError: a task cannot be loaded.
    """
    if is_task(name):
        return open_task(name, items)
    if name in SUITES:
        suite, count = SUITES[name], min(items or ITEMS, MOST_ITEMS)
        raw = suite.rows(count)
        records = [to_record(row, f"{name}:{number}") for number, row in enumerate(raw, start=1)]
        rows = prepare(assistant, records, emit=emit, raw=raw)
        return RowSuite(name, suite.summary, rows, ChosenMetrics((suite.metric,), choice=False, primary=name))
    pairs = read_rows(name.removeprefix(KL))
    rows = prepare(assistant, [record for record, _ in pairs], emit=emit, raw=[row for _, row in pairs])
    if name.startswith(KL):
        return DivergenceSuite(name, "KL(base ‖ adapter) in nats per token", rows)
    chosen = fitting(rows)
    return RowSuite(name, "rows of the user", prepare_choices(assistant, rows, chosen, emit=emit), chosen)


def score_suite(assistant: Assistant, suite: OpenSuite, *, base: bool, emit: Subscriber) -> list[Measure]:
    """The measures of the base, or of the adapter, on a suite."""
    with assistant.as_base() if base else nullcontext():
        return suite.measures(assistant, base=base, emit=emit)


def suite_result(suite: OpenSuite, base: Sequence[Measure], adapters: Sequence[Sequence[Measure]]) -> SuiteResult:
    """Base and adapters (one for each seed) on a suite, by its primary measure, or by the first one if the rows do not
    have that measure."""
    primary = suite.primary if suite.primary in {one.name for one in base} else None
    found = contrast(base, adapters, primary=primary)
    comparison = next((one for one in found if one.name == primary), found[0])
    others = [one for one in found if one is not comparison]
    return SuiteResult(suite.name, suite.count, suite.summary, comparison, others)
