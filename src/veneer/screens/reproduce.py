"""What `veneer reproduce` shows: the progress of the new run, and whether it is the old one."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.reproduction.run import Reproduction, reproduce
from veneer.screens.console import console, write_to_stderr
from veneer.screens.events import EventScreen
from veneer.screens.json_output import print_result
from veneer.training.interrupt import interruptible


def reproduce_visibly(
    run: Path, *, output: Path | None, model: str | None, data: str | None, eval_data: str | None, as_json: bool
) -> Reproduction:
    """Make a run again under a bar, and say what came of it."""
    notice = "stopping after this step"
    with interruptible(lambda: write_to_stderr(f"\n{notice}\n")) as stop, EventScreen(console()) as screen:
        found = reproduce(
            run, output=output, model=model, data=data, eval_data=eval_data, stop=stop,
            subscribers=[screen, print_result] if as_json else [screen],
        )  # fmt: skip
    if not as_json:
        for line in found.lines():
            click.echo(line)
        if found.output is not None:
            click.echo(f"run: {found.output}")
    return found
