"""`veneer.train`: a training run with its trackers and its report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from veneer.arguments import check_types
from veneer.config import RunConfig
from veneer.data.files.in_memory import RowSource
from veneer.evaluation.report import Report
from veneer.events import Subscriber, broadcast, ignore
from veneer.given_rows import Settings, over_rows
from veneer.processes.ranks import ONE_RANK, Ranks, launched
from veneer.run_folder import RunFolder
from veneer.run_report import report_if_possible
from veneer.trackers.board import Table, TrackedOutcome
from veneer.trackers.choose import tracked
from veneer.training import run as training
from veneer.training.session import RunResult


def train(
    config: Settings,
    *,
    data: RowSource | None = None,
    eval_data: RowSource | None = None,
    resume: bool = False,
    subscribers: Sequence[Subscriber] = (),
    stop: Callable[[], bool] = lambda: False,
) -> RunResult:
    """Train as `config` says and write everything into `config.output`.

    If the run keeps rows for evaluation, `report.html` compares base and result on them.

    Args:
        config: the run, a `RunConfig` or a mapping of its sections. A mapping may leave out `data` if rows are given by
            the argument `data`; a `RunConfig` always names a file of rows.
        data: the training rows, instead of `config.data.file`: a file, a list or another iterable of dictionaries, or a
            `datasets.Dataset`. Rows in memory are written into the run's folder.
        eval_data: the evaluation rows, in the same forms, instead of `config.data.eval_file`.
        resume: continue from the newest checkpoint in `config.output`, or start if there is none. The settings and data
            must be those of that run; only `train.epochs` or `train.steps` may be larger, which makes the run longer.
        subscribers: receive every event (progress bars, trackers).
        stop: a function that is called after every step; if it returns true, the run ends with a checkpoint.

    Raises:
        VeneerError: something is wrong, with a subclass from `veneer.errors`; complete results are kept.
        KeyboardInterrupt: Ctrl-C, or a notebook's interrupt, has ended the run after a micro-batch, with a checkpoint.
            A second one ends it at once. A program's own handler of SIGINT is left in its place.

    >>> run = veneer.train({"model": model, "output": "run", "data": {"file": data}, "train": {"steps": 2}})
    >>> run.progress.step
    2
    >>> rows = [{"prompt": "1 + 1?", "completion": "2"}, {"prompt": "1 + 2?", "completion": "3"}]
    >>> run = veneer.train({"model": model, "output": "mine", "train": {"steps": 1}}, data=rows)
    """
    check_types(train, locals())
    with over_rows(config, data, eval_data, broadcast(subscribers)) as (checked, emit):
        return train_tracked(checked, launched(), resume=resume, emit=emit, stop=stop)


def train_tracked(
    config: RunConfig,
    ranks: Ranks = ONE_RANK,
    *,
    resume: bool = False,
    emit: Subscriber = ignore,
    stop: Callable[[], bool] = lambda: False,
) -> RunResult:
    """Train as `veneer.training.run.train` does, and write `report.html` if the run kept rows for evaluation.

    The trackers of `config.track` receive its events. Of several processes, rank 0 writes the report and notifies the
    trackers.
    """
    with tracked(config.track if ranks.first else (), config, emit) as trackers:
        told = broadcast([emit, *trackers])
        result = training.train(config, resume=resume, emit=told, stop=stop, ranks=ranks)
        written = result.complete_before and RunFolder(result.output).report_file.is_file()
        report = report_if_possible(result, emit) if ranks.first and not written else None
        for tracker in trackers:
            tracker.conclude(_outcome(result, report))
    return result


def _outcome(result: RunResult, report: Report | None) -> TrackedOutcome:
    """What trackers receive at the end: the plan, `run.lock`, and the tables of the report."""
    documents = {"run.lock": json.loads(RunFolder(result.output).lock_file.read_text(encoding="utf-8"))}
    if result.plan is not None:
        documents["plan.json"] = result.plan.to_json()
    if report is None:
        return TrackedOutcome(documents=documents)
    measures = [(one.name, one.base, one.adapter, one.difference, one.low, one.high) for one in report.comparison]
    samples = [(one.where, one.question, one.reference, one.base, one.adapter) for one in report.samples]
    return TrackedOutcome(
        documents=documents,
        tables={
            "evaluation/measures": Table(("measure", "base", "adapter", "difference", "from", "to"), measures),
            "evaluation/answers": Table(("row", "question", "reference", "base", "adapter"), samples),
        },
    )
