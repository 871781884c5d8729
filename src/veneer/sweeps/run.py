"""A sweep: its points in groups that share a base, each group in one run. Finished points are never trained again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal, Protocol

from veneer.arguments import check_least, check_types
from veneer.claims import GRID_FILE, refuse_strangers, refuse_the_models_folder
from veneer.config import ComputeSection, DataSection, RunConfig
from veneer.data.rows import Rows, load_rows
from veneer.enums import RowKind
from veneer.errors import Interrupted, OutputError, TrainingStopped, VeneerError, listing
from veneer.events import Level, Note, Result, RunDone, RunEvent, RunsJoined, Stage, Subscriber, broadcast, of_run
from veneer.generation.share import WHOLE_SHARE, Share
from veneer.io.files import make_output_folder, write_text
from veneer.io.locks import exclusive
from veneer.io.tokenizer import Tokenizer
from veneer.processes.ranks import Ranks
from veneer.run_folder import RunFolder
from veneer.runtime.signals import interrupts_noted, stop_signalled
from veneer.sweeps.chart import chart
from veneer.sweeps.grid import Point, plain_grid, points
from veneer.sweeps.outcome import OutcomeTable, PointState, SweepOutcome, best_of, compared_by, dumped, lost_of, to_json
from veneer.text.strict_json import to_text
from veneer.training.folder.locked_inputs import changed_inputs, read_lock
from veneer.training.joint import JointRun, joint_bytes, prepare_joint, train_together
from veneer.training.run import train

RESULTS_FILE = "results.json"
CHART_FILE = "results.svg"
NOT_AGAIN = "it diverged before and is not trained again; delete its folder to repeat it"
TOGETHER = 8
"""The most points in one run: beyond this number, more points do not make a pass more efficient."""


def sweep(
    values: RunConfig | Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    output: str | Path,
    *,
    together: int = TOGETHER,
    subscribers: Sequence[Subscriber] = (),
    stop: Callable[[], bool] = lambda: False,
) -> list[SweepOutcome]:
    """Train every point of a grid, each in its own folder below `output`, and write a table and a chart.

    The same call resumes a sweep that was interrupted: finished points are kept, and begun ones continue from their
    newest checkpoint.

    Args:
        values: the settings of all points, without `output`: a `RunConfig`, or sections and keys as in a YAML file.
        grid: the values of the varied settings, by dotted key: `{"train.learning_rate": [1e-4, 3e-4]}`.
        output: the sweep's folder.
        together: the most points that are trained in one run.
        subscribers: called with every event: which points are trained together, the events of each, and the table.
        stop: called after every step; if it returns true, the sweep ends with checkpoints.

    Raises:
        Interrupted: `stop` returned true; the table has the results so far.
        VeneerError: a point cannot be run, and nothing was trained. Or the folder contains another sweep, or points
            that were trained from other files.
        KeyboardInterrupt: Ctrl-C has ended the sweep, with checkpoints and the table, as in `train`.
    """
    check_types(sweep, locals())
    check_least(1, {"together": together})
    if isinstance(values, RunConfig):
        values = values.model_dump(mode="json", exclude_unset=True)
    trainer = JointTrainer(together=together, stop=stop)
    with interrupts_noted():
        outcomes = sweep_shared(values, grid, Path(output), WHOLE_SHARE, trainer, broadcast(subscribers))
    assert outcomes is not None, "a process that is alone makes the table"
    return outcomes


def sweep_shared(
    values: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    output: Path,
    share: Share,
    trainer: PointTrainer,
    emit: Subscriber,
    *,
    own_device: Callable[[ComputeSection], ComputeSection] = lambda compute: compute,
) -> list[SweepOutcome] | None:
    """Train a grid as `sweep` does, but share its points among several processes; the first one returns the table.

    Args:
        values: the settings of all points, without `output`.
        grid: the values of the varied settings.
        output: the sweep's folder, which all processes see.
        share: the part of the points that this process trains.
        trainer: trains this process's points.
        emit: receives every event of this process's points.
        own_device: replaces the compute settings of a point by those of this process.

    Raises:
        Interrupted, VeneerError: see `sweep`.
    """
    grid = plain_grid(grid)
    found = points(values, grid, output)
    table = OutcomeTable(compared_by(found))
    for model in {point.config.model for point in found}:
        refuse_the_models_folder(model, output)
    make_output_folder(output)
    with exclusive(output) if share.first else nullcontext():
        before = share.from_first(lambda: _done_before(output, values, grid, found, table))
        found = _of_one_day(found)
        for name in before:
            emit(RunDone(run=name, before=True))
        for name, state in before.items():
            if state == PointState.DIVERGED:
                emit(RunEvent(run=name, event=Note(message=NOT_AGAIN, level=Level.WARNING)))
        pending = [point for point in found if point.name not in before]
        own = [_placed(pending[number], own_device) for number in share.own(len(pending))]

        def ended(points: Sequence[Point]) -> None:
            if share.first:
                _report(output, found, table.of(found))
            for outcome in table.of(points):
                if outcome.done:
                    emit(RunDone(run=outcome.name, before=False))

        interrupted = trainer(own, emit, ended)
        interrupted = any(share.all([interrupted] * len(own), len(pending))) or interrupted
        if not share.first:
            return None
        outcomes = table.of(found)
        _report(output, found, outcomes)
    if interrupted:
        raise Interrupted(f"the sweep in {output} was stopped; run the same command again to resume it")
    best = best_of(outcomes)
    emit(Result(verb="sweep", values={"points": to_json(outcomes), "best": None if best is None else best.name}))
    return outcomes


def _done_before(
    output: Path,
    values: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    found: Sequence[Point],
    table: OutcomeTable,
) -> dict[str, str]:
    """Claim the folder for a sweep. Returns the states of the points that are done, by name and in their order.

    Raises:
        OutputError: the folder contains another sweep, or points that cannot be compared with those to come.
        VeneerError: see `_refuse_other_inputs`.
    """
    _claim(output, values, grid)
    outcomes = table.of(found)
    _refuse_lost_logs(found)
    _refuse_other_inputs(found, outcomes)
    return {outcome.name: outcome.state for outcome in outcomes if outcome.done}


def _claim(output: Path, values: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]) -> None:
    """Write the description of the sweep. Refuse a folder with another sweep of which a point was begun, or with files
    that are not a sweep's. A sweep that failed at once, for example because of a misspelt file, does not block the
    folder."""
    file = output / GRID_FILE
    text = to_text({"grid": dict(grid), "settings": dict(values)}, indent=2, default=str) + "\n"
    refuse_strangers(output, (RESULTS_FILE, CHART_FILE), "sweep")
    begun = any(RunFolder(folder).events_file.exists() for folder in output.iterdir() if folder.is_dir())
    if begun and file.is_file() and file.read_text(encoding="utf-8") != text:
        raise OutputError(f"{output} contains another sweep (see {GRID_FILE}); give another output folder")
    write_text(file, text)


def _of_one_day(found: Sequence[Point]) -> list[Point]:
    """The points with the date that templates got in those that were begun. A sweep that is resumed on another day thus
    compares rows that were written alike.

    Raises:
        ConfigError: the record of a point is damaged.
    """
    recorded = [RunFolder(Path(point.config.output)).config() for point in found]
    days = [one.data.template_date for one in recorded if one is not None and one.data.template_date != "auto"]
    if not days:
        return list(found)
    return [
        point if begun is not None or point.config.data.template_date != "auto" else _dated(point, days[0])
        for point, begun in zip(found, recorded, strict=True)
    ]


def _dated(point: Point, day: date | Literal["auto"]) -> Point:
    return replace(point, config=point.config.changed("data", {"template_date": day}))


def _refuse_lost_logs(found: Sequence[Point]) -> None:
    """Refuse points whose logs are incomplete, since the table would lack their losses.

    Raises:
        OutputError: there are such points; all are named.
    """
    lost = [line for point in found if (line := lost_of(point)) is not None]
    if lost:
        raise OutputError(
            f"the table of this sweep is made from the logs of its points, and some are damaged:\n{listing(lost)}\n"
            "Restore them from a copy, or delete the folders of these points to train them again."
        )


def _refuse_other_inputs(found: Sequence[Point], outcomes: Sequence[SweepOutcome]) -> None:
    """Refuse to continue if the base, rows or other inputs differ from those of complete points, since the table would
    compare results that are not comparable. Points that were begun are refused when they are resumed.

    Raises:
        OutputError: inputs have changed; they are named for each point.
        VeneerError: a file no longer exists, or a `run.lock` is damaged.
    """
    problems = []
    for point, outcome in zip(found, outcomes, strict=True):
        if outcome.state is PointState.COMPLETE:
            with _named(point):
                changed = changed_inputs(read_lock(Path(point.config.output)), point.config)
            problems += [f"{point.name}: {line}" for line in changed]
    if problems:
        raise OutputError(
            f"points of this sweep were trained from other files or settings:\n{listing(problems)}\n"
            "Give another output folder, or the files that they were trained from."
        )


@contextmanager
def _named(point: Point) -> Iterator[None]:
    """Add the name of the point to errors within the block: nothing else identifies it when points have different
    models or rows."""
    try:
        yield
    except TrainingStopped:
        raise
    except VeneerError as error:
        raise type(error)(f"{point.name}: {error}") from error


class PointTrainer(Protocol):
    """Trains the points of a sweep, or resumes those that were begun."""

    def __call__(self, points: Sequence[Point], emit: Subscriber, ended: Callable[[Sequence[Point]], None]) -> bool:
        """Train points; returns whether they were stopped before all of them were done.

        Args:
            points: the points to train.
            emit: receives the events of each point.
            ended: called with points when they have ended.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class JointTrainer:
    """Trains points on this machine, as many at a time over one base as fit into memory (`PointTrainer`)."""

    together: int = TOGETHER
    """The most points in one run."""
    processes: int = 1
    """The number of processes that share the machine."""
    stop: Callable[[], bool] = lambda: False
    """Called after every step; if it returns true, the sweep ends with checkpoints."""

    def __call__(self, points: Sequence[Point], emit: Subscriber, ended: Callable[[Sequence[Point]], None]) -> bool:
        """See `PointTrainer`."""
        for group in _groups(points, self.together, emit, self.processes):
            emit(RunsJoined(runs=tuple(point.name for point, _ in group)))
            interrupted = _train_group(group, emit, self.stop, self.processes)
            ended([point for point, _ in group])
            if interrupted:
                return True
        return False


class _RowStore:
    """Loads the rows of every point, and reuses those of an earlier point if they are equal: otherwise a grid would
    hold them many times."""

    def __init__(self) -> None:
        self._seen: dict[tuple[object, ...], Rows] = {}

    def load(self, data: DataSection, tokenizer: Tokenizer, emit: Subscriber, kind: RowKind) -> Rows:
        """The rows of a point; see `veneer.data.rows.load_rows`."""
        rows = load_rows(data, tokenizer, emit, kind)
        # The digest leaves out the choice of evaluation rows, the grouping of rows, and their number in an epoch.
        key = rows.digest(), len(rows.train), rows.together, rows.sources, rows.files
        return self._seen.setdefault(key, rows)


def _placed(point: Point, own_device: Callable[[ComputeSection], ComputeSection]) -> Point:
    """The point with the compute settings of this process."""
    return replace(point, config=point.config.model_copy(update={"compute": own_device(point.config.compute)}))


def _groups(
    pending: Sequence[Point], together: int, emit: Subscriber, processes: int
) -> list[list[tuple[Point, JointRun]]]:
    """Points in the given order, each joined with earlier ones over the same base as far as the memory allows, which
    this number of processes share."""
    groups: list[list[tuple[Point, JointRun]]] = []
    store, prepared = _RowStore(), []
    with Stage(emit, "planning", total=len(pending), unit="runs") as stage:
        for point in pending:
            stage.advance(0, point.name)
            with _named(point):
                prepared.append(prepare_joint(point.config, resume=True, rows=store.load, processes=processes))
            stage.advance()
    for point, run in zip(pending, prepared, strict=True):
        for group in groups:
            members = [*(one for _, one in group), run]
            if (
                run.base_key is not None
                and run.base_key == members[0].base_key
                and len(members) <= together
                and run.plan is not None
                and joint_bytes(members) <= run.plan.limit.bytes
            ):
                group.append((point, run))
                break
        else:
            groups.append([(point, run)])
    return groups


def _train_group(
    group: Sequence[tuple[Point, JointRun]],
    emit: Subscriber,
    stop: Callable[[], bool],
    processes: int,
) -> bool:
    """Train some points; returns whether they were stopped. The folder of a point shows if it diverged. `processes` is
    the number of processes that share the machine's memory."""
    point, run = group[0]
    if run.base_key is None:
        ranks, told = Ranks(local_world=processes), of_run(point.name, emit)
        try:
            train(point.config, resume=run.inputs.resume, emit=told, stop=stop, ranks=ranks)
        except Interrupted:
            return True
        except TrainingStopped:
            return stop_signalled()
        return False
    outcomes = train_together([run for _, run in group], emit, stop=stop)
    return any(isinstance(outcome, Interrupted) for outcome in outcomes)


def _report(output: Path, found: Sequence[Point], outcomes: Sequence[SweepOutcome]) -> None:
    """Write table and chart."""
    units = {point.config.objective.loss_unit for point in found}
    write_text(output / RESULTS_FILE, dumped(outcomes))
    write_text(output / CHART_FILE, chart(outcomes, units.pop() if len(units) == 1 else ""))
