"""The command `evaluate`: base and adapter are scored on the same rows."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import (
    COUNT,
    adapter_option,
    assistant_of,
    base_option,
    device_option,
    dtype_option,
    examples,
    model_option,
)


@click.command(
    epilog=examples(
        "evaluate --model MODEL --data test.jsonl",
        "evaluate --model MODEL --adapter my-adapter\n--data test.jsonl --limit 200",
    )
)
@model_option
@adapter_option
@click.option("--data", required=True, help="The rows to score: a file of JSONL, JSON, CSV or Parquet.")
@base_option
@click.option("--limit", type=COUNT, help="The number of rows to score, from the start of the file. [default: all]")
@click.option("--max-new-tokens", type=COUNT, help="The longest answer, in tokens. [default: as the rows need]")
@device_option
@dtype_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def evaluate(
    model: str,
    adapter: Path | None,
    data: str,
    method: str | None,
    limit: int | None,
    max_new_tokens: int | None,
    device: str,
    dtype: str,
    as_json: bool,
) -> None:
    """Score a model and an adapter on the same rows.

    A row is scored by the loss of its answer, and by the answer that greedy generation gives.
    """
    from veneer.evaluation.run import EvaluationRequest
    from veneer.screens.evaluate import evaluate_visibly

    assistant = assistant_of(model, adapter, method, device, dtype)
    request = EvaluationRequest(assistant=assistant, data=data, limit=limit, max_new_tokens=max_new_tokens)
    evaluate_visibly(request, as_json=as_json)
