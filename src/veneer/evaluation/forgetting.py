"""What was forgotten: suites beside the task, answered by base and adapter in the loading that scores the task.

A suite is one that comes with veneer (`arithmetic`), any file of rows (`own.jsonl`), or `kl:FILE`, which measures how
far the adapter's predictions have moved from the base's on the texts of a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from veneer.assistant import Assistant
from veneer.data.formats import to_record
from veneer.data.records import read_rows
from veneer.errors import ConfigError, listing, nearest
from veneer.evaluation.divergence import row_divergences
from veneer.evaluation.metrics.choose import ChosenMetrics
from veneer.evaluation.rows import RowSet, fitting, prepare, prepare_choices, score_model
from veneer.evaluation.statistics.compare import Comparison, contrast
from veneer.evaluation.statistics.measures import Measure, ratio
from veneer.evaluation.suites.base import MOST_ITEMS
from veneer.evaluation.suites.registry import SUITES
from veneer.events import Stage, Subscriber, ignore

KL = "kl:"
"""What the name of a suite begins with that measures the divergence on the texts of a file."""
ITEMS = 400
"""Items of a generated suite where nothing says how many."""


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """Base and adapter on one suite."""

    name: str
    rows: int
    summary: str
    """What the suite asks for."""
    comparison: Comparison
    """The suite's measure; of a divergence, the base's is 0."""


@dataclass(frozen=True, slots=True)
class OpenSuite:
    """A suite whose rows are read or made, and prepared for the model."""

    name: str
    summary: str
    rows: RowSet
    chosen: ChosenMetrics

    @property
    def divergence(self) -> bool:
        """Whether it measures a divergence, and no answers."""
        return self.name.startswith(KL)


def check_suites(names: Sequence[str]) -> None:
    """Refuse names that are no suite and no file, before anything is loaded.

    Raises:
        ConfigError: naming all of them.
    """
    unknown = [name for name in names if name not in SUITES and not Path(name.removeprefix(KL)).is_file()]
    if unknown:
        lines = [f"{name}{nearest(name, list(SUITES))}" for name in unknown]
        raise ConfigError(
            f"--suite: no suite or file of that name:\n{listing(lines)}\n"
            f"possible are {', '.join(SUITES)}, a file of rows, and kl:FILE"
        )


def open_suite(name: str, items: int, assistant: Assistant, emit: Subscriber = ignore) -> OpenSuite:
    """Make or read the rows of a suite and prepare them; `items` is the number of items of a generated one.

    Raises:
        DataError: the rows of a file cannot be used.
    """
    if name in SUITES:
        suite, count = SUITES[name], min(items, MOST_ITEMS)
        raw = suite.rows(count)
        records = [to_record(row, f"{name}:{number}") for number, row in enumerate(raw, start=1)]
        rows = prepare(assistant, records, emit=emit, raw=raw)
        return OpenSuite(name, suite.summary, rows, ChosenMetrics((suite.metric,), choice=False, primary=name))
    pairs = read_rows(name.removeprefix(KL))
    rows = prepare(assistant, [record for record, _ in pairs], emit=emit, raw=[row for _, row in pairs])
    if name.startswith(KL):
        return OpenSuite(name, "KL(base ‖ adapter) in nats per token", rows, ChosenMetrics((), False, "kl"))
    chosen = fitting(rows)
    return OpenSuite(name, "rows of the user", prepare_choices(assistant, rows, chosen), chosen)


def score_suite(assistant: Assistant, suite: OpenSuite, *, base: bool, emit: Subscriber = ignore) -> list[Measure]:
    """The measures of the base, or of the adapter, on a suite."""
    adapter, rows = assistant.adapter, suite.rows
    who = f"{'base' if base else 'adapter'} on {suite.name}"
    if suite.divergence:
        tokens = [float(example.supervised) for example in rows.examples]
        if base or adapter is None:
            return [ratio("kl", [0.0] * len(tokens), tokens)]
        with Stage(emit, f"comparing predictions: {who}", total=len(rows.examples), unit="rows") as stage:
            sums = row_divergences(assistant.model, adapter, rows.examples, on_done=stage.advance)
        return [ratio("kl", sums, tokens)]
    with assistant.as_base() if base else nullcontext():
        return score_model(assistant, rows, suite.chosen, emit=emit, who=who).measures


def suite_result(suite: OpenSuite, base: Sequence[Measure], adapters: Sequence[Sequence[Measure]]) -> SuiteResult:
    """Base and adapters (one for each seed) on a suite, by its primary measure."""
    found = contrast(base, adapters)
    primary = suite.chosen.primary or found[0].name
    comparison = next(one for one in found if one.name == primary)
    return SuiteResult(suite.name, len(suite.rows.records), suite.summary, comparison)
