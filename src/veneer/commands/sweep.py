"""The command `sweep`: every point of a grid of settings is trained."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import METHODS


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
    from veneer.screens.sweep import sweep_visibly
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
