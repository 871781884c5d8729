"""What `veneer runs` shows: a table of runs, one run with its curves, or two runs side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from veneer.run_folder import RunFolder
from veneer.run_records.curves import curve_of, thinned
from veneer.run_records.find import differences, open_run, runs
from veneer.run_records.log import RunLog
from veneer.run_records.record import RunRecord, by_key, default_settings
from veneer.run_records.state import RunState
from veneer.screens.console import new_table, output_console, say, show_table, width_of
from veneer.screens.figures import answered, duration
from veneer.text.counting import count_of
from veneer.text.strict_json import to_text, with_reasons

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 48
"""The width of a sparkline, in characters."""
LINES = 8
"""The number of lines of a run's log that are shown."""
COLOURS = {
    RunState.RUNNING: "cyan", RunState.FINISHED: "green", RunState.STOPPED: "yellow", RunState.FAILED: "red",
    RunState.KILLED: "red",
}  # fmt: skip


def show_runs(folder: Path, *, as_json: bool) -> None:
    """Print the runs in a folder, the newest first."""
    found = runs(folder)
    if as_json:
        click.echo(to_text(with_reasons({"folder": str(folder), "runs": [_values(one) for one in found]}), indent=2))
        return
    if not found:
        say(output_console(), f"{folder}: no run in it or below it")
        return
    list_runs(output_console(), folder, found)


def list_runs(screen: Console, folder: Path, found: Sequence[RunRecord]) -> None:
    """Print runs as a table, or as lines if a terminal has no room for it."""
    table = new_table(f"{count_of(len(found), 'run')} in {folder}", "")
    table.columns[0].header = "run"
    for heading in ("state", "model"):
        table.add_column(heading)
    for heading in ("steps", "loss", "best evaluation", "time", "begun"):
        table.add_column(heading, justify="right")
    for one in found:
        table.add_row(Text(one.name), Text(_state(one), style=COLOURS[one.state]), *map(Text, _cells(one)))
    if screen.is_terminal and width_of(screen, table) > screen.width:
        _show_lines(screen, str(table.title), found)
    else:
        show_table(screen, table, whole=True)
    for one in found:
        _say_if_unreadable(screen, one)


def _say_if_unreadable(screen: Console, record: RunRecord) -> None:
    if not record.has_events and record.state is not RunState.RUNNING:
        file = RunFolder(record.path).events_file
        say(screen, f"{file}: no line of it is an event, so steps, losses and the end of this run are not known")


def _show_lines(screen: Console, title: str, found: Sequence[RunRecord]) -> None:
    """Print runs in a terminal that has no room for their table, which would cut names: the name of each on its own
    line, and its facts below."""
    say(screen, title, style="bold")
    for one in found:
        model, steps, loss, best, seconds, begun = _cells(one)
        known = (model, f"{steps} steps", loss and f"loss {loss}", best and f"best evaluation {best}", seconds, begun)
        say(screen, one.name, style=COLOURS[one.state])
        say(screen, f"  {', '.join(filter(None, (_state(one), *known)))}")


def show_run(folder: Path, *, as_json: bool) -> None:
    """Print one run: its facts, its curves, and the settings that differ from the defaults."""
    record, log, settings = open_run(folder)
    if as_json:
        click.echo(to_text(with_reasons(_run_values(record, log, settings)), indent=2))
        return
    screen = output_console()
    say(screen, f"{record.name}: {_state(record)}", style=f"bold {COLOURS[record.state]}")
    _say_if_unreadable(screen, record)
    for name, value in _facts(record):
        say(screen, f"  {name:<20} {value}")
    for title, drawn in _curves(log):
        say(screen, f"  {title:<20} {drawn}")
    changed = _changed(settings)
    if changed:
        say(screen, "settings that differ from the defaults", style="bold")
        for key, value in changed.items():
            say(screen, f"  {key:<28} {_shown(value)}")
    for title, said in _answers(log):
        say(screen, title, style="bold")
        for text in said:
            say(screen, f"  {text}")
    if log.lines:
        say(screen, "log", style="bold")
        for line in log.lines[-LINES:]:
            say(screen, f"  {line.message}", style="yellow" if line.level.value == "warning" else "")


def show_comparison(one: Path, other: Path, *, as_json: bool) -> None:
    """Print two runs side by side: their facts and curves, and the settings in which they differ."""
    (ours, our_log, our_settings), (theirs, their_log, their_settings) = open_run(one), open_run(other)
    apart = differences(our_settings, their_settings)
    if as_json:
        values = {"runs": [_values(ours), _values(theirs)], "settings": {key: list(two) for key, two in apart.items()}}
        click.echo(to_text(with_reasons(values), indent=2))
        return
    screen = output_console()
    table = new_table("", "")
    for name in (ours.name, theirs.name):
        table.add_column(Text(name), justify="right")
    left, right = dict(_facts(ours)), dict(_facts(theirs))
    for name in [*left, *(key for key in right if key not in left)]:
        table.add_row(Text(name), Text(left.get(name, "")), Text(right.get(name, "")))
    show_table(screen, table, whole=True)
    for record in (ours, theirs):
        _say_if_unreadable(screen, record)
    span = _span(our_log, their_log)
    for record, log in ((ours, our_log), (theirs, their_log)):
        say(screen, f"  {record.name:<20} {sparkline(_losses(log), span=span)}")
    say(screen, "settings that differ" if apart else "no setting differs", style="bold")
    for key, (left_value, right_value) in apart.items():
        say(screen, f"  {key:<28} {_shown(left_value)}  |  {_shown(right_value)}")


def sparkline(values: Sequence[float | None], *, span: tuple[float, float] | None = None) -> str:
    """Values as a line of bars, each as high as the mean of its share of the values; `·` if none of these is finite.

    Args:
        values: the values along the line.
        span: the values of the lowest and the highest bar; None uses those of `values`.
    """
    if not values:
        return ""
    count = min(WIDTH, len(values))
    cuts = [round(place * len(values) / count) for place in range(count + 1)]
    parts = [
        [value for value in values[begin:end] if value is not None and math.isfinite(value)]
        for begin, end in pairwise(cuts)
    ]
    means = [sum(part) / len(part) if part else None for part in parts]
    finite = [mean for mean in means if mean is not None]
    if not finite:
        return "·" * count
    low, high = span or (min(finite), max(finite))
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    places = [None if mean is None else round((min(max(mean, low), high) - low) * scale) for mean in means]
    return "".join("·" if place is None else BARS[place] for place in places)


def _losses(log: RunLog) -> list[float | None]:
    return curve_of(log, "loss").y


def _span(*logs: RunLog) -> tuple[float, float] | None:
    """The lowest and the highest loss of several runs, so that their sparklines can be compared."""
    finite = [value for log in logs for value in _losses(log) if value is not None]
    return (min(finite), max(finite)) if finite else None


def _curves(log: RunLog) -> list[tuple[str, str]]:
    drawn = []
    for title, column in (("loss", "loss"), ("evaluation loss", "evaluation"), ("gradient norm", "grad_norm")):
        values = curve_of(log, column).y
        finite = [value for value in values if value is not None]
        if len(values) > 1 and finite:
            drawn.append((title, f"{sparkline(values)}  {finite[0]:.4g} to {finite[-1]:.4g}"))
    return drawn


def _answers(log: RunLog) -> list[tuple[str, list[str]]]:
    """The run's last answers: those to the prompts of its samples, and those with the highest and the lowest reward."""
    found = []
    for sampled in log.samples[-1:]:
        pairs = zip(sampled.prompts, sampled.answers, strict=True)
        found.append((f"samples of step {sampled.step:,}", [answered(*pair) for pair in pairs]))
    for judged in log.judged[-1:]:
        rows = zip(judged.rewards, judged.prompts, judged.shown, strict=True)
        lines = [f"reward {reward:.4g}: {answered(prompt, answer)}" for reward, prompt, answer in rows]
        found.append((f"sampled answers of step {judged.step:,}, the highest reward and the lowest", lines))
    return found


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    """The facts about a run, formatted for people."""
    facts = {
        "state": _state(record),
        "model": record.model,
        "method": record.method,
        "steps": _steps(record),
        "loss": _loss(record.loss),
        "best evaluation": _best(record),
        "peak learning rate": None if record.learning_rate is None else f"{record.learning_rate:.3g}",
        "tokens": f"{record.tokens:,}",
        "time in steps": duration(record.seconds),
        "peak memory": None if record.memory_mb is None else f"{record.memory_mb:,.0f} MB",
        "begun": _moment(record.begun),
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def _state(record: RunRecord) -> str:
    return "unknown" if record.state is RunState.FAILED and not record.has_events else record.state.value


def _cells(record: RunRecord) -> tuple[str, ...]:
    model = Path(record.model).name if record.model else ""
    return (
        model, _steps(record), _loss(record.loss), _best_number(record), duration(record.seconds),
        _moment(record.begun),
    )  # fmt: skip


def _steps(record: RunRecord) -> str:
    return f"{record.step:,} of {record.steps:,}" if record.steps else f"{record.step:,}"


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _best(record: RunRecord) -> str:
    return "" if record.best_step is None else f"{_best_number(record)} after step {record.best_step:,}"


def _best_number(record: RunRecord) -> str:
    return _loss(record.best_loss) if record.best_value is None else f"{record.best_by} {record.best_value:.4f}"


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def _changed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that differ from the defaults, by their dotted keys."""
    defaults = default_settings()
    return {key: value for key, value in by_key(settings).items() if key not in defaults or defaults[key] != value}


def _values(record: RunRecord) -> dict[str, Any]:
    return asdict(record) | {"path": str(record.path)}


def _run_values(record: RunRecord, log: RunLog, settings: Mapping[str, Any]) -> dict[str, Any]:
    places = thinned(log.columns["loss"], 1_000).tolist()
    return {
        **_values(record),
        "settings": dict(settings),
        "losses": [[log.steps[place], log.columns["loss"][place]] for place in places],
        "evaluations": [[one.step, one.loss] for one in log.evaluations],
        "checkpoints": RunFolder(record.path).checkpoint_steps(),
        "samples": [asdict(one) for one in log.samples],
        "judged": [asdict(one) for one in log.judged],
        "log": [asdict(line) for line in log.lines],
    }
