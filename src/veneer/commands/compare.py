"""The command `compare`: methods side by side on the same rows."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import (
    METHODS,
    devices_option,
    examples,
    model_option,
    on_option,
    set_option,
)
from veneer.commands.parameter_types import COUNT, FEW, PATH, ROWS, Number
from veneer.commands.processes import in_processes
from veneer.enums import Method, ObjectiveName

PREFERENCES = (ObjectiveName.DPO, ObjectiveName.ORPO, ObjectiveName.CPO, ObjectiveName.SIMPO)
"""The objectives that may follow fine-tuning."""


@click.command(
    epilog=examples(
        "compare --model MODEL --data rows.jsonl --output comparison",
        "compare --model MODEL --data rows.jsonl\n--eval-data test.jsonl --output comparison --methods lora,qlora",
        "compare --model MODEL --data pairs.jsonl --output comparison\n--methods lora --preference dpo",
    )
)
@model_option
@click.option(
    "--data",
    type=ROWS,
    help="The rows to train on: a file of JSONL, JSON, CSV or Parquet. Several sources with weights: --set "
    "'data.sources=[{file: a.jsonl, weight: 2}, {file: b.jsonl}]'.",
)
@click.option("--output", required=True, type=PATH, help="The folder of the comparison. Finished runs in it are kept.")
@click.option(
    "--methods", default="full,lora,qlora", show_default=True, help="The methods to compare, separated by commas."
)
@click.option(
    "--preference",
    type=click.Choice([name.value for name in PREFERENCES]),
    help="Train on pairs: every method is fine-tuned on the chosen answers and then trained further with this "
    "objective.",
)
@click.option("--seeds", type=FEW, default=3, show_default=True, help="The number of runs of each method.")
@click.option("--eval-data", type=ROWS, help="The rows that every run is scored on.")
@click.option(
    "--held-out",
    type=Number(),
    help="The share of the rows to hold out for scoring, without --eval-data. [default: 0.1]",
)
@click.option("--limit", type=COUNT, help="The number of rows to score, drawn once for all runs. [default: all]")
@click.option("--max-new-tokens", type=COUNT, help="The longest answer, in tokens. [default: by the rows]")
@devices_option
@on_option
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="A metric of the task, as in `veneer evaluate`; the first one is the primary one. [default: by the rows]",
)
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def compare(
    model: str,
    data: str | None,
    output: Path,
    methods: str,
    preference: str | None,
    seeds: int,
    eval_data: str | None,
    held_out: float | None,
    limit: int | None,
    max_new_tokens: int | None,
    devices: int | None,
    on: str | None,
    metrics: tuple[str, ...],
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train with several methods, and show quality next to cost.

    Every method is trained with several seeds on the same rows, each run in a process of its own. The exit code is 1 if
    a run failed; the other runs are still shown.
    """
    if eval_data is not None and held_out is not None:
        raise click.UsageError("give --eval-data or --held-out, not both")
    names = [name.strip() for name in methods.split(",")]
    known = list(METHODS.choices)
    if not set(names) <= set(known):
        raise click.UsageError(f"--methods {methods}: give one or more of {', '.join(known)}, separated by commas")
    ranks = in_processes(devices, on=on)
    from veneer.comparison.request import HELD_OUT, CompareRequest
    from veneer.screens.compare import compare_visibly

    request = CompareRequest(
        model=model,
        data=data,
        output=str(output),
        methods=tuple(Method(name) for name in names),
        seeds=seeds,
        eval_data=eval_data,
        held_out=HELD_OUT if held_out is None else held_out,
        limit=limit,
        max_new_tokens=max_new_tokens,
        metrics=metrics,
        assignments=assignments,
        preference=None if preference is None else ObjectiveName(preference),
    )
    result = compare_visibly(request, ranks, as_json=as_json, on=on)
    if result is not None and result.problems:
        raise click.exceptions.Exit(1)
