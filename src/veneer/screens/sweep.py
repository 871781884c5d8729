"""What `veneer sweep` shows: a line for each event of a point, and a table of all points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from veneer.processes.group_share import GroupShare, meeting
from veneer.processes.ranks import Ranks
from veneer.screens.console import new_table, output_console, say, show_table
from veneer.screens.figures import duration
from veneer.screens.subscribers import subscriber_of, told_by_rank_0
from veneer.sweeps.outcome import PointState, SweepOutcome, best_of
from veneer.sweeps.run import CHART_FILE, TOGETHER, JointTrainer, sweep_shared
from veneer.text.counting import count_of
from veneer.training.evaluations.best import LOSS
from veneer.training.parallel.start import with_own_device


def sweep_visibly(
    values: Mapping[str, Any],
    grid: Mapping[str, list[Any]],
    output: Path,
    ranks: Ranks,
    *,
    together: int | None,
    as_json: bool,
    on: str | None = None,
) -> None:
    """Train a grid's points with a bar for each, and print the table of all points. Of several processes each trains a
    share of the points, and rank 0 prints. On the cluster at the address `on`, each point is a task."""
    outcomes = (
        _on_cluster(on, values, grid, output, as_json) if on else _here(values, grid, output, ranks, together, as_json)
    )
    if outcomes is None or as_json:
        return
    best, shown_at = best_of(outcomes), output_console()
    show_table(shown_at, sweep_table(outcomes, best), whole=True)
    say(shown_at, f"chart: {output / CHART_FILE}")
    if best is not None:
        say(shown_at, f"best: {output / best.name}")


def _on_cluster(
    on: str, values: Mapping[str, Any], grid: Mapping[str, list[Any]], output: Path, as_json: bool
) -> list[SweepOutcome]:
    from veneer.ray.runs import sweep_on

    with subscriber_of(as_json=as_json) as emit:
        return sweep_on(on, values, grid, output, emit)


def _here(
    values: Mapping[str, Any],
    grid: Mapping[str, list[Any]],
    output: Path,
    ranks: Ranks,
    together: int | None,
    as_json: bool,
) -> list[SweepOutcome] | None:
    with meeting(ranks) as group, told_by_rank_0(ranks, as_json=as_json) as emit:
        share = GroupShare(group)
        return sweep_shared(
            values,
            grid,
            output,
            share,
            JointTrainer(together=together or TOGETHER, processes=share.processes),
            emit,
            own_device=lambda compute: with_own_device(compute, ranks),
        )


def sweep_table(outcomes: Sequence[SweepOutcome], best: SweepOutcome | None) -> Table:
    """The table of all points of a sweep, the best one marked."""
    by, way = outcomes[0].best_by, "highest" if outcomes[0].higher else "lowest"
    table = new_table(f"{count_of(len(outcomes), 'point')}" + ("" if by == LOSS else f", compared by the {way} {by}"))
    for key in outcomes[0].settings:
        table.add_column(Text(key.rpartition(".")[2]))
    metric = () if by == LOSS else (f"best {by}",)
    for name in (*metric, "final loss", "best loss", "training loss", "time"):
        table.add_column(Text(name), justify="right")
    for one in outcomes:
        numbers = [*([one.best_value] if metric else []), one.final_loss, one.best_loss, one.train_loss]
        cells = ["" if number is None else f"{number:.4f}" for number in numbers]
        end = duration(one.seconds) if one.state is PointState.COMPLETE else one.state
        style = "green" if one is best else "yellow" if one.state is not PointState.COMPLETE else None
        table.add_row(*(Text(str(value)) for value in one.settings.values()), *cells, end, style=style)
    return table
