"""What `veneer sweep` shows: a line for what happens in each point, and a table of all points."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table
from rich.text import Text

from veneer.events import Evaluated, Event, RunFinished, StepDone, Subscriber
from veneer.screens.console import console, write_to_stderr
from veneer.screens.figures import duration
from veneer.sweeps.grid import Point
from veneer.sweeps.outcome import Outcome, best_of, to_json
from veneer.sweeps.run import CHART_FILE, TOGETHER, sweep
from veneer.training.interrupt import interruptible


def sweep_visibly(
    values: Mapping[str, Any], grid: Mapping[str, list[Any]], output: Path, *, together: int | None, as_json: bool
) -> list[Outcome]:
    """Train a grid's points with a line for what happens; table (or JSON) at the end, also where it was interrupted."""
    screen = console()
    notice = "stopping after this step; the same command goes on"
    with interruptible(lambda: write_to_stderr(f"\n{notice}\n")) as stop, screen.status("planning") as status:

        def follow(point: Point) -> list[Subscriber]:
            return [lambda event: _follow_point(screen, status, point, event)]

        outcomes = sweep(
            values,
            grid,
            output,
            together=together or TOGETHER,
            subscribers=follow,
            on_group=lambda group: screen.print(f"training {len(group)} together: {', '.join(p.name for p in group)}"),
            stop=stop,
        )
    best = best_of(outcomes)
    if as_json:
        shown = {"points": to_json(outcomes), "best": None if best is None else best.name}
        click.echo(json.dumps(shown, indent=2))
        return outcomes
    Console().print(sweep_table(outcomes, best))
    click.echo(f"chart: {output / CHART_FILE}")
    if best is not None:
        click.echo(f"best: {output / best.name}")
    return outcomes


def _follow_point(screen: Console, status: Status, point: Point, event: Event) -> None:
    if isinstance(event, StepDone):
        status.update(escape(f"{point.name}: step {event.step:,}, loss {event.loss:.4f}"))
    elif isinstance(event, Evaluated):
        screen.print(escape(f"{point.name}: step {event.step:,}, evaluation loss {event.loss:.4f}"))
    elif isinstance(event, RunFinished) and event.reason != "complete":
        screen.print(escape(f"{point.name}: {event.reason} after step {event.step:,}"))


def sweep_table(outcomes: Sequence[Outcome], best: Outcome | None) -> Table:
    """Every point of a sweep, the best one marked."""
    table = Table(title=f"{len(outcomes)} points", title_justify="left", title_style="bold")
    for key in outcomes[0].settings:
        table.add_column(key.rpartition(".")[2])
    for name in ("final loss", "best loss", "training loss", "time"):
        table.add_column(name, justify="right")
    for one in outcomes:
        losses = [one.final_loss, one.best_loss, one.train_loss]
        cells = ["" if loss is None else f"{loss:.4f}" for loss in losses]
        end = duration(one.seconds) if one.state == "complete" else one.state
        style = "green" if one is best else "yellow" if one.state != "complete" else None
        table.add_row(*(Text(str(value)) for value in one.settings.values()), *cells, end, style=style)
    return table
