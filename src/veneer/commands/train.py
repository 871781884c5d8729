"""The command `train`: an adapter, or the whole model, is trained on rows."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import METHODS, run_config


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
    from veneer.screens.train import train_visibly

    result = train_visibly(config, resume=resume, as_json=as_json)
    if not as_json:
        click.echo(f"{'model' if config.method.value == 'full' else 'adapter'}: {result.output}")
        if result.best is not None:
            click.echo(f"best by evaluation loss ({result.progress.best_loss:.4f}): {result.best}")
