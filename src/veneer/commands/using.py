"""Commands that use a model, with an adapter or without: `evaluate`, `generate`, `chat`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from veneer.commands.shared import (
    adapter_option,
    base_option,
    compute_of,
    device_option,
    dtype_option,
    method_of,
    model_option,
    sampling_of,
    sampling_options,
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
    from veneer.recipes import evaluate_visibly

    report = evaluate_visibly(
        model,
        data,
        adapter=adapter,
        method=method_of(method),
        compute=compute_of(device, dtype),
        limit=limit,
        max_new_tokens=max_new_tokens,
        as_json=as_json,
    )
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))


@click.command()
@model_option
@adapter_option
@click.option("--prompt", help="One question; standard input if neither this nor --input is given.")
@click.option("--input", "input_file", type=click.Path(path_type=Path), help="A text file with one question a line.")
@sampling_options(256)
@base_option
@device_option
@dtype_option
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for every answer.")
def generate(
    model: str,
    adapter: Path | None,
    prompt: str | None,
    input_file: Path | None,
    system: str | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    method: str | None,
    device: str,
    dtype: str,
    as_json: bool,
) -> None:
    """Answer one question (streaming), or every line of a file (in batches)."""
    if prompt is not None and input_file is not None:
        raise click.UsageError("give --prompt or --input, not both")
    from veneer import recipes

    settings = sampling_of(max_new_tokens, temperature, top_p, seed)
    questions = recipes.read_questions(input_file) if input_file is not None else [recipes.read_question(prompt)]
    assistant = recipes.open_visibly(model, adapter, method_of(method), compute_of(device, dtype))
    if input_file is not None:
        for question, answer in recipes.answer_all(assistant, questions, system, settings):
            click.echo(json.dumps({"prompt": question, "answer": answer}, ensure_ascii=False) if as_json else answer)
        return
    question = questions[0]
    echo = (lambda text: None) if as_json else (lambda text: click.echo(text, nl=False))
    answer = recipes.answer(assistant, question, system, settings, echo)
    click.echo(json.dumps({"prompt": question, "answer": answer}, ensure_ascii=False) if as_json else "")


@click.command()
@model_option
@adapter_option
@sampling_options(512)
@base_option
@device_option
@dtype_option
def chat(
    model: str,
    adapter: Path | None,
    system: str | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    method: str | None,
    device: str,
    dtype: str,
) -> None:
    """Talk to a model in the terminal. An empty line or Ctrl-D ends, /new starts over."""
    from veneer import recipes

    settings = sampling_of(max_new_tokens, temperature, top_p, seed)
    assistant = recipes.open_visibly(model, adapter, method_of(method), compute_of(device, dtype))
    recipes.converse(assistant, system, settings)
