"""The command `plan`: what a run would take."""

from __future__ import annotations

import click

from veneer.commands.options import METHODS, run_config


@click.command()
@click.option("--model", required=True, help="Model: a directory, a config.json, a GGUF file or a hub id; no weights.")
@click.option("--method", type=METHODS, default="qlora", show_default=True, help="What is trained.")
@click.option("--data", help="Rows to train on; without them --rows, --tokens and --length are supposed.")
@click.option("--rows", type=click.IntRange(min=1), default=1000, show_default=True, help="Number of rows.")
@click.option("--tokens", type=click.IntRange(min=2), help="Tokens of a row on average (default: as --length).")
@click.option("--length", type=click.IntRange(min=2), help="Longest row, in tokens (default: as --tokens, or 512).")
@click.option("--rank", type=click.IntRange(min=1), help="Rank of the adapter.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, e.g. train.epochs=2.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, or a card: h100, a100, l4, …")
@click.option("--memory-limit-mb", type=click.IntRange(min=1), help="What the run may take at its peak.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(
    model: str,
    method: str,
    data: str | None,
    rows: int,
    tokens: int | None,
    length: int | None,
    rank: int | None,
    assignments: tuple[str, ...],
    device: str,
    memory_limit_mb: int | None,
    as_json: bool,
) -> None:
    """Say what a training run would take, from a config.json alone: memory, time, disk."""
    from veneer.screens.plan import plan_visibly
    from veneer.training.planned import NO_FILE, Expected

    if data is not None and tokens is not None:
        raise click.UsageError("give --data or --tokens, not both: the rows say how long they are")
    flags = {
        "model": model,
        "method": method,
        "output": NO_FILE,
        "data.file": data or NO_FILE,
        "data.max_length": length if data is not None else None,
        "lora.rank": rank,
        "compute.memory_limit_mb": memory_limit_mb,
    }
    config = run_config({key: value for key, value in flags.items() if value is not None}, None, assignments, False)
    longest = length or tokens or 512
    expected = Expected(rows=rows, tokens=min(tokens or longest, longest), longest=longest)
    plan_visibly(config, device, expected, as_json=as_json)
