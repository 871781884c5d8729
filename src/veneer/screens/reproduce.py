"""What `veneer reproduce` shows: the progress of the new run, and whether it is the old one."""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text

from veneer.errors import listing
from veneer.reproduction.run import Reproduction, reproduce
from veneer.screens.console import console, write_to_stderr
from veneer.screens.events import EventScreen
from veneer.training.interrupt import interruptible


def reproduce_visibly(
    run: Path, *, output: Path | None, model: str | None, data: str | None, eval_data: str | None, as_json: bool
) -> Reproduction:
    """Make a run again with a progress bar, and say what came of it unless the caller wants JSON."""
    screen = console()

    def warn(differing: list[str]) -> None:
        if differing:
            screen.print(Text(f"computed otherwise here, so that other bytes may come out:\n{listing(differing)}"))

    with (
        interruptible(lambda: write_to_stderr("\nstopping after this step\n")) as stop,
        EventScreen(screen) as display,
    ):
        found = reproduce(
            run, output=output, model=model, data=data, eval_data=eval_data, subscribers=[display], stop=stop,
            on_environment=warn,
        )  # fmt: skip
    if not as_json:
        for line in found.lines():
            click.echo(line)
        if found.output is not None:
            click.echo(f"run: {found.output}")
    return found
