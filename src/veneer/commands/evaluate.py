"""The command `evaluate`: base and adapter are scored on the same rows."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import (
    adapter_option,
    assistant_of,
    base_option,
    device_option,
    dtype_option,
    model_option,
)


@click.command()
@model_option
@adapter_option
@click.option("--data", required=True, help="Rows to score: JSONL, JSON, CSV or Parquet.")
@base_option
@click.option("--limit", type=click.IntRange(min=1), help="Take only the first rows.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Longest answer.")
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
    """Score base and adapter on the same rows: loss, and answers by greedy generation."""
    from veneer.evaluation.run import EvaluationRequest
    from veneer.screens.evaluate import evaluate_visibly

    assistant = assistant_of(model, adapter, method, device, dtype)
    request = EvaluationRequest(assistant=assistant, data=data, limit=limit, max_new_tokens=max_new_tokens)
    evaluate_visibly(request, as_json=as_json)
