"""The command `reproduce`: a run is made again from its run.lock."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the new run (default: RUN.reproduced).")
@click.option("--model", help="Where the base is now, if it was moved.")
@click.option("--data", help="Where the rows are now, if they were moved.")
@click.option("--eval-data", help="Where the evaluation rows are now, if they were moved.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def reproduce(
    run: Path, output: Path | None, model: str | None, data: str | None, eval_data: str | None, as_json: bool
) -> None:
    """Make a run again from its run.lock: the same bytes (exit code 0), or what differs (1)."""
    from veneer.screens.reproduce import reproduce_visibly

    found = reproduce_visibly(run, output=output, model=model, data=data, eval_data=eval_data, as_json=as_json)
    if not found.same:
        raise click.exceptions.Exit(1)
