"""The command `sweep`: trains every point of a grid of settings."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import (
    config_option,
    devices_option,
    eval_data_option,
    examples,
    held_out_option,
    on_option,
    set_option,
    training_data_option,
    training_device_option,
    training_method_option,
    training_model_option,
)
from veneer.commands.parameter_types import COUNT, PATH
from veneer.commands.processes import in_processes
from veneer.commands.settings import given_keys, with_options


@click.command(
    epilog=examples(
        "sweep --model MODEL --data rows.jsonl --output rates\n--held-out 0.1 --grid train.learning_rate=1e-4,1e-3",
        "sweep --config run.yaml --output ranks\n--grid lora.rank=4,8,16 --grid train.seed=0,1",
    )
)
@training_model_option
@training_data_option
@click.option("--output", type=PATH, help="The folder of the sweep. [default: that of --config]")
@click.option(
    "--grid",
    multiple=True,
    required=True,
    metavar="KEY=VALUE,VALUE",
    help="A setting and its values. If given several times, every combination is trained.",
)
@training_method_option
@eval_data_option
@held_out_option
@training_device_option
@devices_option
@on_option
@config_option
@set_option
@click.option(
    "--together", type=COUNT, help="The largest number of points to train at a time on one base model. [default: 8]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the table of results as JSON.")
def sweep(
    model: str | None,
    data: str | None,
    output: Path | None,
    grid: tuple[str, ...],
    method: str | None,
    eval_data: str | None,
    held_out: float | None,
    device: str | None,
    devices: int | None,
    on: str | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    together: int | None,
    as_json: bool,
) -> None:
    """Train every point of a grid of settings.

    Points that share a base model are trained together. The same command resumes a sweep that was interrupted.
    """
    ranks = in_processes(devices, on=on)
    from veneer.config.values import read_yaml
    from veneer.screens.sweep import sweep_visibly
    from veneer.sweeps.grid import check_settings, parse_grid

    flags = {
        "model": model,
        "data.file": data,
        "method": method,
        "data.eval_file": eval_data,
        "data.held_out": held_out,
        "compute.device": device,
    }
    values = with_options({} if config_file is None else read_yaml(config_file), flags, assignments)
    folder = values.get("output") if output is None else str(output)
    if not isinstance(folder, str):
        raise click.UsageError("Missing option '--output': the folder of the sweep, if --config has no output.")
    if on is not None and together is not None:
        raise click.UsageError(
            "--together joins points on one machine, and --on makes a task of each; give only one of them"
        )
    varied = parse_grid(grid)
    check_settings(varied, given_keys(flags, assignments))
    sweep_visibly(values, varied, Path(folder), ranks, together=together, as_json=as_json, on=on)
