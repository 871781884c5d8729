"""The command `reproduce`: repeats a run from its run.lock."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import examples
from veneer.commands.parameter_types import MODEL, PATH, ROWS


@click.command(epilog=examples("reproduce my-adapter", "reproduce my-adapter --data moved/rows.jsonl"))
@click.argument("run", type=PATH)
@click.option("--output", type=PATH, help="The folder of the new run. [default: RUN.reproduced]")
@click.option("--model", type=MODEL, help="The path of the base model, if it was moved.")
@click.option("--data", type=ROWS, help="The path of the rows, if they were moved.")
@click.option("--eval-data", type=ROWS, help="The path of the evaluation rows, if they were moved.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def reproduce(
    run: Path, output: Path | None, model: str | None, data: str | None, eval_data: str | None, as_json: bool
) -> None:
    """Train a run again, and compare the bytes.

    RUN is the folder of a finished run, with its run.lock. The exit code is 0 if the bytes are the same. Else it is 1,
    and the command shows what differs.
    """
    from veneer.screens.reproduce import reproduce_visibly

    found = reproduce_visibly(run, output=output, model=model, data=data, eval_data=eval_data, as_json=as_json)
    if not found.same:
        raise click.exceptions.Exit(1)
