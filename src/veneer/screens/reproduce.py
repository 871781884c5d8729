"""What `veneer reproduce` shows: the progress of the new run, and whether it equals the old one."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.reproduction.run import Reproduction, reproduce
from veneer.screens.subscribers import subscriber_of


def reproduce_visibly(
    run: Path, *, output: Path | None, model: str | None, data: str | None, eval_data: str | None, as_json: bool
) -> Reproduction:
    """Repeat a run under a progress bar, and print the result."""
    with subscriber_of(as_json=as_json) as emit:
        found = reproduce(run, output=output, model=model, data=data, eval_data=eval_data, subscribers=[emit])
    if not as_json:
        for line in found.lines():
            click.echo(line)
        if found.output is not None:
            click.echo(f"run: {found.output}")
    return found
