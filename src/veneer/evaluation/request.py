"""The request for an evaluation, and the checks whether it can be carried out, before a model is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from veneer.adapters.files.content import content_digest
from veneer.adapters.files.store import check_adapter, read_tensors
from veneer.arguments import repeats
from veneer.assistant.request import AssistantRequest
from veneer.enums import Column
from veneer.errors import ConfigError, listing
from veneer.evaluation.columns import record_columns
from veneer.evaluation.forgetting import check_suites
from veneer.evaluation.gate import ReleaseGate, read_gate
from veneer.evaluation.harness import is_task
from veneer.evaluation.judge.run import check_judge
from veneer.evaluation.judge.settings import JudgeSettings, read_judge
from veneer.run_folder import recorded_run
from veneer.text.json_numbers import is_whole


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRequest:
    """An evaluation, with its options."""

    assistant: AssistantRequest
    """The model, and the adapter that is compared with it."""
    data: str
    """The rows: JSONL, JSON, CSV or Parquet."""
    limit: int | None = None
    """The number of rows that are scored, from the first; None takes all."""
    max_new_tokens: int | None = None
    """The longest answer, in tokens; None takes a little more than the longest reference."""
    metrics: tuple[str, ...] = ()
    """Metrics by name (docs/evaluation.md), the primary one first; if empty, those that fit the rows."""
    cluster: str | None = None
    """The column whose equal values make rows a cluster; None makes each row its own cluster."""
    more_adapters: tuple[Path, ...] = ()
    """Further adapters, trained like the first one with other seeds."""
    suites: tuple[str, ...] = ()
    """Suites to answer as well (`veneer.evaluation.forgetting`)."""
    suite_items: int | None = None
    """Items of each generated suite or task of lm-eval; None takes what the gate needs, or 400, and whole tasks."""
    gate: Path | None = None
    """A file of margins that the adapter must keep."""
    judge: Path | None = None
    """A file that names a judge, which compares the answers of base and adapter; None uses no judge."""
    html: Path | None = None
    """The page to write, with all results."""
    columns: Mapping[Column, str] = field(default_factory=dict)
    """Maps veneer's name of a column to the file's; if empty, that of the first adapter's run, if the file has them."""

    @property
    def folders(self) -> list[Path]:
        """The folders of all adapters."""
        return [one for one in (self.assistant.adapter, *self.more_adapters) if one is not None]


@dataclass(frozen=True, slots=True)
class SettledRequest:
    """A request with the columns of its file, its gate and its judge, all read and checked."""

    request: EvaluationRequest
    gate: ReleaseGate | None
    judge: JudgeSettings | None
    suites: tuple[str, ...]
    """The names of all suites."""

    def items(self, suite: str) -> int | None:
        """The number of items of a suite that has as many as requested; None leaves it to the suite."""
        if self.request.suite_items is not None or self.gate is None or suite not in self.gate.suites or is_task(suite):
            return self.request.suite_items
        return self.gate.items_of(suite)


def settle(request: EvaluationRequest) -> SettledRequest:
    """Read everything that the request names, except the model. Otherwise an error in a judge, or in the last of
    several adapters, would be found only after everything before it has been answered.

    Raises:
        ConfigError: something named cannot be used, a number is below 1, an adapter, a metric or a suite is given
            twice, or an option that compares is given without an adapter.
        DataError: the file, or the judge's rows of human verdicts, cannot be read.
        AdapterError, ModelError, OutputError: one of several adapters, or the judge's model, adapter or record, cannot
            be used.
    """
    _check_request(request)
    judge = None if request.judge is None else read_judge(request.judge)
    gate = None if request.gate is None else read_gate(request.gate)
    if gate is not None and gate.metric is not None:
        request = replace(request, metrics=tuple(dict.fromkeys((gate.metric, *request.metrics))))
    suites = tuple(dict.fromkeys((*request.suites, *(gate.suites if gate else ()))))
    check_suites(suites, request.suite_items)
    if request.assistant.adapter is None and (suites or gate or request.judge or request.more_adapters):
        raise ConfigError(
            "suites, a gate, a judge and several adapters compare an adapter with its base: give an adapter"
        )
    if judge is not None:
        check_judge(judge)
    if request.more_adapters:
        _check_adapters(request.folders)
    columns = record_columns(request.data, request.columns, recorded_run(request.assistant.adapter))
    return SettledRequest(replace(request, columns=columns), gate, judge, suites)


def _check_adapters(folders: Sequence[Path]) -> None:
    """Read the adapters. All but the first are loaded only after those before them have answered everything.

    Raises:
        AdapterError: an adapter cannot be used.
        ConfigError: an adapter is a copy of another, which would count as a second seed.
    """
    known: dict[bytes, Path] = {}
    for folder in folders:
        check_adapter(folder)
        read_tensors(folder)
        first = known.setdefault(content_digest(folder), folder)
        if first != folder:
            raise ConfigError(
                f"adapter: {folder} is a copy of {first}, not a run with another seed; give each adapter once"
            )


def _check_request(request: EvaluationRequest) -> None:
    """Refuse numbers below 1, which as the end of a slice would leave out some or all rows; an adapter that is given
    twice, which would count as two seeds; and names that are given twice, one of which would be ignored."""
    numbers = {
        "limit": request.limit,
        "max_new_tokens": request.max_new_tokens,
        "suite_items": request.suite_items,
    }
    problems = [
        f"{name}: must be a whole number of at least 1, got {n!r}"
        for name, n in numbers.items()
        if n is not None and not is_whole(n, 1)
    ]
    folders = Counter(one.resolve() for one in request.folders)
    problems += [
        f"adapter: {folder} is given {times} times; give it once, together with those of runs with other seeds"
        for folder, times in folders.items()
        if times > 1
    ]
    problems += repeats({"metrics": request.metrics, "suites": request.suites})
    if problems:
        raise ConfigError(f"the evaluation cannot be made:\n{listing(problems)}")
