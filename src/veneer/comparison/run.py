"""Methods side by side: `compare`, which `veneer compare` and the Python API call."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from veneer.arguments import check_types, names_given
from veneer.backends.describe import describe_model
from veneer.claims import SETTINGS_FILE, refuse_the_models_folder
from veneer.comparison.order import (
    BASE,
    STDERR_FILE,
    Order,
    preferred,
    read_answers,
    read_choices,
    read_outcome,
)
from veneer.comparison.request import HELD_OUT, METHODS, SPLIT, CompareRequest, check_question
from veneer.comparison.result import CompareResult
from veneer.comparison.rows import COMPARISON_FILE, RUNS, ComparedRows, prepare_rows, scored_columns, trained_on
from veneer.comparison.summary import charts, differences, summarize
from veneer.comparison.task import TaskRows, check_metrics, task_rows
from veneer.config import RunConfig, parse
from veneer.config.values import drop, laid_over, override
from veneer.data.files.in_memory import RowSource, rows_file, withdrawn_until
from veneer.enums import Method, ObjectiveName, choice
from veneer.errors import Interrupted
from veneer.evaluation.metrics.choose import said_of_missing, try_on_references
from veneer.events import Event, Level, Note, Result, RunDone, RunEvent, RunFailed, Subscriber, broadcast, from_json
from veneer.generation.sampling import Sampling
from veneer.generation.share import WHOLE_SHARE, Share
from veneer.io.checkpoint import read_model_config
from veneer.io.files import make_output_folder, reported, write_text
from veneer.io.locks import exclusive
from veneer.run_folder import RunFolder
from veneer.runtime.own_module import command_of
from veneer.runtime.signals import SIGNALS, deferred, interrupts_noted, stop_signalled
from veneer.text.strict_json import to_text, with_reasons

INTERRUPTED = {128 + number for number in SIGNALS}
"""Exit codes of a run that was ended by a signal."""
Carrier = Callable[[Sequence[Order], Subscriber], list[str | None]]
"""Carries out orders, emits their events, and gives the reason for each that failed; None for one that is done."""


def compare(
    model: str | Path,
    data: RowSource,
    output: str | Path,
    *,
    methods: Sequence[Method | str] = METHODS,
    seeds: int = 3,
    eval_data: RowSource | None = None,
    held_out: float = HELD_OUT,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    metrics: str | Sequence[str] = (),
    assignments: Sequence[str] = (),
    preference: ObjectiveName | str | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> CompareResult:
    """Train and score every method with every seed, each run in a process of its own, one after another.

    Finished runs are not repeated, and a run that was interrupted is resumed.

    Args:
        model: directory, GGUF file or hub id.
        data: rows to train on, a file or dictionaries, as in `train`.
        output: the folder of the comparison.
        methods: the methods to compare, `Method`s or their names.
        seeds: the number of runs of each method.
        eval_data: rows to score; without them a share of `data` is held out, the same for all runs.
        held_out: the size of this share.
        limit: the number of evaluation rows to score, drawn once.
        max_new_tokens: the longest answer, in tokens.
        metrics: one name as in `evaluate`, or several with the primary one first; by default the form of the rows
            decides.
        assignments: `key=value` settings for all runs, as in `veneer train --set`.
        preference: an objective of pairs. `data` must then be pairs: every method is fine-tuned on the chosen answers,
            and then trained further by this objective on the pairs.
        subscribers: receive every event.

    Raises:
        ConfigError: the settings of a method contradict each other, or contain a key that the comparison sets itself.
        DataError: rows cannot be used.
        OutputError: the folder holds another comparison, or cannot be written.
        Interrupted: a run was stopped; the same call resumes it.
        KeyboardInterrupt: Ctrl-C has ended a run, with a checkpoint, as in `train`; the same call resumes it.
    """
    check_types(compare, locals())
    folder, emit = RunFolder(Path(output)), broadcast(subscribers)
    begun = folder.path / SETTINGS_FILE
    # If the comparison has not begun, the caller may correct the rows and try again.
    with withdrawn_until(begun.exists, [folder.data_file, folder.eval_data_file]):
        request = CompareRequest(
            model=str(model),
            data=str(rows_file(data, folder.data_file, emit)),
            output=str(output),
            methods=tuple(choice(Method, method, "methods") for method in methods),
            seeds=seeds,
            eval_data=None if eval_data is None else str(rows_file(eval_data, folder.eval_data_file, emit)),
            held_out=held_out,
            limit=limit,
            max_new_tokens=max_new_tokens,
            metrics=names_given(metrics),
            assignments=tuple(assignments),
            preference=None if preference is None else choice(ObjectiveName, preference, "preference"),
        )
        with interrupts_noted():
            return compare_alone(request, emit)


def compare_alone(request: CompareRequest, emit: Subscriber) -> CompareResult:
    """Compare in this process and those that it starts, one after another. The errors are those of `compare_shared`."""
    result = compare_shared(request, WHOLE_SHARE, "auto", emit)
    assert result is not None, "a process that is alone makes the result"
    return result


def one_by_one(orders: Sequence[Order], emit: Subscriber) -> list[str | None]:
    """Carry out orders one after another on this machine (`Carrier`).

    Raises:
        Interrupted: a run was stopped.
    """
    return [carry_out(order, emit) for order in orders]


def compare_shared(
    request: CompareRequest,
    share: Share,
    device: str,
    emit: Subscriber,
    *,
    carrier: Carrier = one_by_one,
) -> CompareResult | None:
    """Train and score every method with every seed. Several processes share the runs; the first one returns the result.

    Args:
        request: the settings of the comparison.
        share: the part of the runs that this process makes.
        device: the device of its runs.
        emit: receives every event of this process's runs.
        carrier: carries out this process's runs.

    Raises:
        ConfigError: the settings of a method contradict each other, or include one that a comparison sets itself; or a
            metric cannot be computed on the evaluation rows.
        DataError: rows cannot be used.
        OutputError: the folder contains another comparison, or cannot be written.
        Interrupted: a run was stopped; the same call resumes it.
    """
    output = Path(request.output)
    check_question(request)
    chosen = check_metrics(request.metrics)
    refuse_the_models_folder(request.model, output)
    make_output_folder(output)
    with exclusive(output) if share.first else nullcontext():
        rows = ComparedRows(**share.from_first(lambda: asdict(prepare_rows(request, output, emit))))
        task = task_rows(rows.eval_file, chosen, scored_columns(request))
        stages = _stages(request, rows, choices=bool(task.choices))
        _check_answers(request, stages[0][0].config)
        try_on_references(task.rows, task.chosen)
        orders, problems = _carried_out(stages, share, device, lambda ready: carrier(ready, emit))
        if not share.first:
            return None
        result = _result(request, rows, task, orders, problems, emit)
        for name, chart in charts(result.outcomes).items():
            write_text(output / name, chart)
        write_text(output / COMPARISON_FILE, to_text(with_reasons(result.to_json()), indent=1) + "\n")
    emit(Result(verb="compare", values=result.to_json()))
    return result


def _check_answers(request: CompareRequest, run: RunConfig) -> None:
    """Refuse answers that are longer than the context of the runs' model, before anything is trained.

    Raises:
        ConfigError: the answers are longer.
        ModelError: the model cannot be read.
    """
    if request.max_new_tokens is not None:
        model = describe_model(read_model_config(run.model, revision=run.revision), run.backend)
        Sampling(max_new_tokens=request.max_new_tokens).check_context(model.spec.max_positions)


def _carried_out(
    stages: Sequence[Sequence[Order]],
    share: Share,
    device: str,
    carry_out: Callable[[Sequence[Order]], list[str | None]],
) -> tuple[list[Order], dict[str, str]]:
    """Carry out this process's share of all runs.

    Returns:
        The runs that were begun; and for the others, by name, the reason why they were not.
    """
    orders: list[Order] = []
    problems: dict[str, str] = {}
    # A run that continues from another run's adapter begins when all of those are done.
    for stage in stages:
        ready = [order.on(device, share.processes) for order in stage if order.after not in problems]
        problems |= {
            order.folder.name: f"it continues from {order.after}, which was not run"
            for order in stage
            if order.after in problems
        }
        refusals = share.all(carry_out([ready[number] for number in share.own(len(ready))]), len(ready))
        problems |= {order.folder.name: text for order, text in zip(ready, refusals, strict=True) if text}
        orders += ready
    return orders, problems


def _result(
    request: CompareRequest,
    rows: ComparedRows,
    task: TaskRows,
    orders: Sequence[Order],
    problems: dict[str, str],
    emit: Subscriber,
) -> CompareResult:
    """The results of the finished runs. A warning names metrics that gave nothing."""
    runs = [
        task.measured(found, read_answers(order.folder, task.count), read_choices(order.folder, len(task.choices)))
        for order in orders
        if order.done and (found := read_outcome(order.folder)) is not None
    ]
    outcomes = [one.outcome for one in runs]
    missing = said_of_missing(request.metrics, outcomes[0].metrics) if outcomes else []
    for warning in missing:
        emit(Note(message=warning, level=Level.WARNING))
    # The name of the user's own measure is known only from its results.
    own = next((one.first for one in runs if one.first is not None), None) if request.metrics else None
    primary = task.primary or own
    return CompareResult(
        request,
        rows.training,
        rows.evaluation,
        outcomes,
        problems,
        summarize(outcomes),
        differences([one for one in runs if one.outcome.method != BASE], primary),
        primary,
        {f"{one.outcome.method}-{one.outcome.seed}": dict(one.details) for one in runs if one.details},
        [*rows.warnings, *missing],
    )


def _stages(request: CompareRequest, rows: ComparedRows, *, choices: bool) -> list[list[Order]]:
    """The base, then every method seed by seed, so that an interrupted comparison has some results of every method. If
    there is a preference, the same methods and seeds with it follow."""
    runs, methods = Path(request.output) / RUNS, list(dict.fromkeys(request.methods))
    each = [(seed, method) for seed in range(request.seeds) for method in methods]

    def order(contender: str, seed: int, run: RunConfig, after: str | None = None) -> Order:
        return Order(contender, seed, run, rows.eval_file, request.max_new_tokens, choices, after)

    def tuned(method: Method, seed: int, name: str) -> RunConfig:
        settings = _settings(request, method, preference=False)
        return _config(request, method, seed, runs / name, settings, trained_on(rows))

    first = [order(BASE, 0, tuned(methods[0], 0, BASE))]
    first += [order(method.value, seed, tuned(method, seed, f"{method.value}-{seed}")) for seed, method in each]
    if request.preference is None:
        return [first]
    second = []
    for seed, method in each:
        contender, before = preferred(method.value, request.preference), f"{method.value}-{seed}"
        own = {"objective": request.preference.value, "data.file": rows.pairs_file,
               "train.from_adapter": str(runs / before)}  # fmt: skip
        settings = _settings(request, method, preference=True)
        run = _config(request, method, seed, runs / f"{contender}-{seed}", settings, own)
        second.append(order(contender, seed, run, before))
    return [first, second]


def _settings(request: CompareRequest, method: Method, *, preference: bool) -> dict[str, Any]:
    """The settings of a method's runs. Fine-tuning does not get those of the preference's objective. The preference
    continues from an adapter, so it gets neither an objective nor the start of a new adapter."""
    values = override({}, [*request.assignments, *request.more.get(method, ())])
    if preference:
        drop(values, "objective")
        drop(values, "lora.init")
    elif request.preference is not None:
        drop(values, request.preference.value)
    return values


def _config(
    request: CompareRequest,
    method: Method,
    seed: int,
    output: Path,
    settings: Mapping[str, Any],
    trained: Mapping[str, Any],
) -> RunConfig:
    """The configuration of a run, from its settings and from those for what it trains on (`trained`)."""
    own: dict[str, Any] = {"model": request.model, "output": str(output), "method": method.value}
    own |= {"train.seed": seed, **trained}
    values = laid_over(settings, own.items())
    drop(values, SPLIT)  # the rows are split already
    if request.preference is not None:
        drop(values, "data.columns")  # the files of pairs have veneer's own names
    return parse(values, where=f"the settings of {method.value}")


def carry_out(order: Order, emit: Subscriber) -> str | None:
    """Run one order in a process, unless it is done; returns the reason if it failed.

    Raises:
        Interrupted: the run was stopped.
    """
    name = order.folder.name
    if order.done:
        emit(RunDone(run=name, before=True))
        return None
    command = [*command_of("veneer.comparison.worker"), str(order.write())]
    refusal = None
    process: subprocess.Popen[str] | None = None

    def end() -> None:
        if process is not None:
            process.terminate()

    stderr = order.folder / STDERR_FILE
    with deferred(end), reported(stderr), stderr.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8", errors="replace")
        if stop_signalled():
            end()
        assert process.stdout is not None
        try:
            for line in process.stdout:
                event = _event(line)
                if isinstance(event, RunFailed):
                    refusal = event.message
                else:
                    emit(RunEvent(run=name, event=event))
        finally:
            # The run ends after its micro-batch with a checkpoint: read its output to the end.
            process.communicate()
        code = process.returncode
        if code in INTERRUPTED or (code != 0 and stop_signalled()):
            raise Interrupted(f"{name} was stopped; run the same command again to resume it")
    if code == 0:
        emit(RunDone(run=name, before=False))
        return None
    if refusal is None:
        killed = ", which often means that the memory was full" if code == -9 else ""
        refusal = f"its process ended with {code}{killed}; its messages are in {stderr}"
    emit(RunFailed(run=name, message=refusal))
    return refusal


def _event(line: str) -> Event:
    """The event in a line of a run's output; a line that is not an event becomes a note."""
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    event = from_json(values) if isinstance(values, dict) else None
    return event or Note(message=line.rstrip())
