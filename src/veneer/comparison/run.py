"""Methods side by side: `compare` is what `veneer compare` and the Python API call."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from veneer.comparison.order import BASE, STDERR_FILE, Order, RunOutcome, read_answers, read_choices, read_outcome
from veneer.comparison.summary import Difference, MethodSummary, charts, differences, summarize
from veneer.comparison.task import check_metrics, task_rows
from veneer.config import RunConfig, parse
from veneer.config.values import laid_over, override
from veneer.data.orders import order as shuffled
from veneer.data.records import Record, read_rows
from veneer.data.sources import files_named
from veneer.data.splits import split
from veneer.enums import Method
from veneer.errors import ConfigError, Interrupted, OutputError, listing
from veneer.events import Event, Note, Result, RunDone, RunEvent, RunFailed, Subscriber, broadcast, from_json
from veneer.generation.share import WHOLE, Share
from veneer.io.checkpoint import open_checkpoint
from veneer.io.files import exclusive, make_output_folder, reported, sampled_digest, write_text
from veneer.notebook import html_facts, html_table
from veneer.signals import SIGNALS, deferred, stop_signalled
from veneer.strict_json import to_text, with_reasons

SETTINGS_FILE = "settings.json"
COMPARISON_FILE = "compare.json"
SOURCES = "data.sources"
OWN_KEYS = ("model", "output", "method", "data.file", "data.eval_file", "data.held_out", "train.seed")
"""Settings that a comparison gives to its runs itself."""
INTERRUPTED = {128 + number for number in SIGNALS}
"""Exit codes of a run that a signal ended."""
METHODS = (Method.FULL, Method.LORA, Method.QLORA)
Carrier = Callable[[Sequence[Order], Subscriber], list[str | None]]
"""Carries out orders, tells of each, and says why each could not be done; None of one that is done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareConfig:
    """What is compared, on what."""

    model: str
    data: str | None = None
    """Rows to train on; None where `assignments` have `data.sources`."""
    output: str
    methods: tuple[Method, ...] = METHODS
    seeds: int = 3
    eval_data: str | None = None
    """Rows to score. Without them a share of `data` is scored and not trained, the same rows for all runs."""
    held_out: float = 0.1
    limit: int | None = None
    """Score only so many of the evaluation rows, drawn once."""
    max_new_tokens: int | None = None
    metrics: tuple[str, ...] = ()
    """Metrics of the task by name, the primary one first; none takes what the rows call for."""
    assignments: tuple[str, ...] = ()
    """`key=value` settings of the runs, those of `veneer train --set`; all methods get the same."""
    more: Mapping[Method, tuple[str, ...]] = field(default_factory=dict)
    """Settings of one method alone, laid over those of all."""


@dataclass(frozen=True, slots=True)
class CompareResult:
    """Everything that was measured."""

    config: CompareConfig
    training_rows: int
    evaluation_rows: int
    outcomes: list[RunOutcome] = field(repr=False)
    """All runs that are done; the base first."""
    problems: dict[str, str]
    """Runs that could not be made, by name, with the reason."""
    methods: list[MethodSummary]
    differences: list[Difference]
    primary: str | None = None
    """The measure that decides; the p values of the others are adjusted for their number. None is the first one."""
    details: dict[str, Any] = field(default_factory=dict, repr=False)
    """What metrics found beside their measures (confusion matrices, fields, signatures), by run."""

    def _repr_html_(self) -> str:
        """The tables that notebooks show."""
        title = f"{self.config.model}: {self.training_rows} training rows, {self.evaluation_rows} evaluation rows"
        names = list(dict.fromkeys(name for one in self.methods for name in one.metrics))
        rows = [
            (one.method, len(one.seeds), *(one.metrics[name].mean if name in one.metrics else "" for name in names))
            for one in self.methods
        ]
        failed = html_facts("not run", self.problems) if self.problems else ""
        return html_table(title, ("method", "seeds", *names), rows) + failed

    def to_json(self) -> dict[str, Any]:
        """The result as plain values, without the single rows."""
        values = asdict(self)
        values["config"]["methods"] = [method.value for method in self.config.methods]
        values["config"]["more"] = {method.value: more for method, more in self.config.more.items()}
        for outcome in values["outcomes"]:
            del outcome["rows"]
        return values


def compare(config: CompareConfig, *, subscribers: Sequence[Subscriber] = ()) -> CompareResult:
    """Train and score every method with every seed, each run in a process of its own, one after another.

    What is done already is not done again, and a run that was cut short goes on where it was.

    Raises:
        ConfigError: the settings of a method contradict each other, or name what a comparison sets itself.
        DataError: rows cannot be used.
        OutputError: the folder holds another comparison, or cannot be written.
        Interrupted: a run was stopped; the same call goes on with it.
    """
    result = compare_shared(config, WHOLE, "auto", subscribers=subscribers)
    assert result is not None, "a process that is alone makes the result"
    return result


def one_by_one(orders: Sequence[Order], emit: Subscriber) -> list[str | None]:
    """Carry out orders one after another on this machine (`Carrier`).

    Raises:
        Interrupted: a run was stopped.
    """
    return [carry_out(order, emit) for order in orders]


def compare_shared(
    config: CompareConfig,
    share: Share,
    device: str,
    *,
    carrier: Carrier = one_by_one,
    subscribers: Sequence[Subscriber] = (),
) -> CompareResult | None:
    """Compare as `compare` does, each of several processes a share of the runs; the result in the first of them.

    Args:
        config: what is compared.
        share: the runs that are this process's.
        device: where its runs compute.
        carrier: carries out this process's runs.
        subscribers: called with every event of this process's runs.

    Raises:
        ConfigError: the settings of a method contradict each other, or name what a comparison sets itself.
        DataError: rows cannot be used.
        OutputError: the folder holds another comparison, or cannot be written.
        Interrupted: a run was stopped; the same call goes on with it.
    """
    output, emit = Path(config.output), broadcast(subscribers)
    _check(config)
    chosen = check_metrics(config.metrics)
    make_output_folder(output)
    with exclusive(output) if share.first else nullcontext():
        made = to_text(asdict(_prepare(config, output))) if share.first else ""
        rows = _Rows(**json.loads(share.told(made)))
        task = task_rows(rows.eval_file, chosen)
        orders = [order.on(device) for order in _orders(config, rows, choices=bool(task.choices))]
        refusals = share.all(carrier([orders[number] for number in share.own(len(orders))], emit), len(orders))
        if not share.first:
            return None
        problems = {order.folder.name: problem for order, problem in zip(orders, refusals, strict=True) if problem}
        runs = [
            task.measured(found, read_answers(order.folder), read_choices(order.folder))
            for order in orders
            if order.done and (found := read_outcome(order.folder)) is not None
        ]
        outcomes = [one.outcome for one in runs]
        result = CompareResult(
            config,
            rows.training,
            rows.evaluation,
            outcomes,
            problems,
            summarize(outcomes),
            differences([one for one in runs if one.outcome.method != BASE], task.primary),
            task.primary,
            {f"{one.outcome.method}-{one.outcome.seed}": dict(one.details) for one in runs if one.details},
        )
        for name, chart in charts(outcomes).items():
            write_text(output / name, chart)
        write_text(output / COMPARISON_FILE, to_text(with_reasons(result.to_json()), indent=1) + "\n")
    emit(Result(verb="compare", values=result.to_json()))
    return result


def _check(config: CompareConfig) -> None:
    assignments = [text for texts in (config.assignments, *config.more.values()) for text in texts]
    given = [text.partition("=")[0].strip() for text in assignments]
    taken = [key for key in given if key in OWN_KEYS]
    taken += [SOURCES] if SOURCES in given[len(config.assignments) :] else []
    if taken:
        raise ConfigError(f"a comparison gives these settings to its runs itself; leave them out:\n{listing(taken)}")
    if any(key == "objective" and not text.endswith("=sft") for key, text in zip(given, assignments, strict=True)):
        raise ConfigError(
            "a comparison trains every method on one file of answers and judges them by it, which objective sft alone "
            "takes; train with another objective by `veneer train`, and compare adapters by `veneer evaluate`"
        )
    if (config.data is None) == (SOURCES not in given):
        raise ConfigError("a comparison trains on a file of rows (--data) or on data.sources; give one of them")
    if config.seeds < 1 or not config.methods:
        raise ConfigError("a comparison needs at least one method and one seed")
    if not 0 < config.held_out < 1:
        raise ConfigError(f"the held-out share is {config.held_out}; it must lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class _Rows:
    train_files: list[str]
    """The rows to train on, a file for each source."""
    weights: list[float]
    """The weight of each source; empty where there is one file without any."""
    eval_file: str
    training: int
    evaluation: int


def _prepare(config: CompareConfig, output: Path) -> _Rows:
    """Split and draw the rows into files of their own, the same for every run, and refuse a folder of other ones."""
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
    if config.limit is not None and config.limit < len(scored):
        drawn = sorted(shuffled(len(scored), seed=0, epoch=0)[: config.limit].tolist())
        scored = [scored[index] for index in drawn]
    names = [f"train-{number}.jsonl" for number in range(len(training))] if weights else ["train.jsonl"]
    files = [output / name for name in (*names, "eval.jsonl")]
    contents = ["".join(_line(row) for row in part) for part in (*training, scored)]
    settings = _settings(config, contents, weights)
    _refuse_another(output / SETTINGS_FILE, settings)
    for file, content in zip(files, contents, strict=True):
        write_text(file, content)
    write_text(output / SETTINGS_FILE, to_text(settings, indent=1) + "\n")
    *training_files, eval_file = map(str, files)
    return _Rows(training_files, weights, eval_file, sum(map(len, training)), len(scored))


def _sources(config: CompareConfig) -> tuple[list[str], list[float]]:
    """The names of the sources of rows, and the weight of each; of a single file without weights there are none.

    Raises:
        ConfigError: `data.sources` is no list of files and weights.
    """
    if config.data is not None:
        return [config.data], []
    texts = [text for text in config.assignments if text.partition("=")[0].strip() == SOURCES]
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
        "training rows": training if weights else training[0],
        "evaluation rows": scored,
        "longest answer": config.max_new_tokens,
        # Of the sources their rows count, wherever these lie.
        "settings": sorted(text for text in config.assignments if text.partition("=")[0].strip() != SOURCES),
        **({"weights of data.sources": list(weights)} if weights else {}),
        **{f"settings of {method.value}": sorted(more) for method, more in config.more.items()},
    }


def _refuse_another(path: Path, settings: dict[str, Any]) -> None:
    if not path.is_file():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(f"{path}: not what veneer wrote ({error}); give another output folder") from error
    other = [
        f"{key}: {before.get(key)} there, {value} now" for key, value in settings.items() if before.get(key) != value
    ]
    if other:
        raise OutputError(
            f"{path.parent} holds a comparison of something else; give another output folder:\n{listing(other)}"
        )


def _orders(config: CompareConfig, rows: _Rows, *, choices: bool) -> list[Order]:
    """The base, then seed by seed every method: a comparison that is cut short has something of all."""
    output = Path(config.output)

    def order(method: str, trained_as: Method, seed: int, name: str) -> Order:
        assignments = (*config.assignments, *config.more.get(trained_as, ()))
        run = _config(config, rows, trained_as, seed, output / "runs" / name, assignments)
        return Order(method, seed, run, rows.eval_file, config.max_new_tokens, choices)

    runs = [order(method.value, method, seed, f"{method.value}-{seed}")
            for seed in range(config.seeds) for method in dict.fromkeys(config.methods)]  # fmt: skip
    return [order(BASE, config.methods[0], 0, BASE), *runs]


def _config(
    config: CompareConfig, rows: _Rows, method: Method, seed: int, output: Path, assignments: Sequence[str]
) -> RunConfig:
    own: dict[str, Any] = {"model": config.model, "output": str(output), "method": method.value}
    own |= {"train.seed": seed, **_data(rows)}
    values = laid_over(override({}, assignments), own.items())
    return parse(values, where=f"the settings of {method.value}")


def _data(rows: _Rows) -> dict[str, Any]:
    """What a run trains on."""
    if not rows.weights:
        return {"data.file": rows.train_files[0]}
    pairs = zip(rows.train_files, rows.weights, strict=True)
    return {SOURCES: [{"file": file, "weight": weight} for file, weight in pairs]}


def carry_out(order: Order, emit: Subscriber) -> str | None:
    """Run one order in a process, unless it is done; returns why it could not be done.

    Raises:
        Interrupted: the run was stopped.
    """
    name = order.folder.name
    if order.done:
        emit(RunDone(run=name, before=True))
        return None
    command = [sys.executable, "-m", "veneer.comparison.worker", str(order.write())]
    refusal = None
    process: subprocess.Popen[str] | None = None

    def end() -> None:
        if process is not None:
            process.terminate()

    stderr = order.folder / STDERR_FILE
    with deferred(end), reported(stderr), stderr.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
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
            # The run ends after its micro-batch, with a checkpoint: hear it out.
            process.communicate()
        code = process.returncode
        if code in INTERRUPTED or (code != 0 and stop_signalled()):
            raise Interrupted(f"{name} was stopped; the same command goes on with it")
    if code == 0:
        emit(RunDone(run=name, before=False))
        return None
    if refusal is None:
        killed = ", which often means that the memory was full" if code == -9 else ""
        refusal = f"its process ended with {code}{killed}; what it said is in {stderr}"
    emit(RunFailed(run=name, message=refusal))
    return refusal


def _event(line: str) -> Event:
    """The event that a run has printed; whatever else it prints is passed on as a note."""
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    event = from_json(values) if isinstance(values, dict) else None
    return event or Note(message=line.rstrip())
