"""The command `compare`: methods side by side on the same rows."""

from __future__ import annotations

import click

from veneer.commands.options import METHODS, model_option


@click.command()
@model_option
@click.option("--data", required=True, help="Rows to train on: JSONL, JSON, CSV or Parquet.")
@click.option("--output", required=True, help="Folder of the comparison; what is done there is not done again.")
@click.option("--methods", default="full,lora,qlora", show_default=True, help="Methods, with commas between.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each method.")
@click.option("--eval-data", help="Rows to score.")
@click.option("--held-out", type=float, help="Share of the rows kept to be scored where there is no --eval-data (0.1).")
@click.option("--limit", type=click.IntRange(min=1), help="Score only so many rows, drawn once.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Longest answer.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting of the runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def compare(
    model: str,
    data: str,
    output: str,
    methods: str,
    seeds: int,
    eval_data: str | None,
    held_out: float | None,
    limit: int | None,
    max_new_tokens: int | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train full, LoRA and QLoRA on your rows, each with several seeds, and show quality beside cost."""
    if eval_data is not None and held_out is not None:
        raise click.UsageError("give --eval-data or --held-out, not both")
    names = [name.strip() for name in methods.split(",")]
    known = list(METHODS.choices)
    if not set(names) <= set(known):
        raise click.UsageError(f"--methods {methods}: known are {', '.join(known)}, with commas between")
    from veneer.comparison.run import CompareConfig
    from veneer.enums import Method
    from veneer.screens.compare import compare_visibly

    config = CompareConfig(
        model=model,
        data=data,
        output=output,
        methods=tuple(Method(name) for name in names),
        seeds=seeds,
        eval_data=eval_data,
        held_out=0.1 if held_out is None else held_out,
        limit=limit,
        max_new_tokens=max_new_tokens,
        assignments=assignments,
    )
    compare_visibly(config, as_json=as_json)
