"""The command `train`: trains an adapter, or the whole model, on rows."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import (
    config_option,
    devices_option,
    eval_data_option,
    examples,
    held_out_option,
    other_base_option,
    set_option,
    training_data_option,
    training_device_option,
    training_method_option,
    training_model_option,
)
from veneer.commands.parameter_types import FOLDER, MANY, RANK, Count, Duration, Number
from veneer.commands.processes import in_processes
from veneer.commands.settings import run_config
from veneer.enums import OtherBase


@click.command(
    epilog=examples(
        "train --model MODEL --data rows.jsonl --output my-adapter",
        "train --model MODEL --data rows.jsonl --output my-adapter\n--method lora --rank 16 --epochs 2 --lr 2e-4",
        "train --config run.yaml --set train.optimizer=adamw8bit",
        "train --output my-adapter --resume",
        "train --model MODEL --data rows.jsonl --output my-adapter --devices 4",
    )
)
@training_model_option
@training_data_option
@click.option(
    "--output", type=FOLDER, help="The folder of the run: adapter, settings, checkpoints, events, loss curve."
)
@training_method_option
@click.option("--epochs", type=Number(), help="Passes over the training rows (train.epochs).")
@click.option("--steps", type=Count(most=100_000_000), help="Optimiser steps, instead of --epochs (train.steps).")
@click.option(
    "--time-limit",
    type=Duration(),
    help="The time limit of the whole run, for example 10m; as many steps as fit are trained (train.time_limit).",
)
@click.option(
    "--learning-rate", "--lr", "learning_rate", type=Number(), help="The peak learning rate (train.learning_rate)."
)
@click.option(
    "--from-adapter", type=FOLDER, help="The folder of an adapter that the run starts from (train.from_adapter)."
)
@other_base_option
@click.option("--rank", type=RANK, help="The rank of the adapter (lora.rank).")
@click.option(
    "--batch-size", type=MANY, help="Rows in an optimiser step, over all its micro-batches (train.examples_per_step)."
)
@eval_data_option
@held_out_option
@training_device_option
@devices_option
@config_option
@set_option
@click.option("--resume", is_flag=True, help="Resume from the newest checkpoint in the output folder, if any.")
@click.option("--json", "as_json", is_flag=True, help="Print every event as a line of JSON.")
def train(
    model: str | None,
    data: str | None,
    output: str | None,
    method: str | None,
    epochs: float | None,
    steps: int | None,
    time_limit: float | None,
    learning_rate: float | None,
    from_adapter: str | None,
    allow_other_base: bool,
    rank: int | None,
    batch_size: int | None,
    eval_data: str | None,
    held_out: float | None,
    device: str | None,
    devices: int | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    resume: bool,
    as_json: bool,
) -> None:
    """Train an adapter (or the whole model) on your rows.

    Options and --set override the settings of --config. veneer chooses what is not given, and reports its choices.
    """
    flags = {
        "model": model,
        "data.file": data,
        "output": output,
        "method": method,
        "train.epochs": epochs,
        "train.steps": steps,
        "train.time_limit": time_limit,
        "train.learning_rate": learning_rate,
        "train.from_adapter": from_adapter,
        "train.other_base": OtherBase.ALLOW.value if allow_other_base else None,
        "lora.rank": rank,
        "train.examples_per_step": batch_size,
        "data.eval_file": eval_data,
        "data.held_out": held_out,
        "compute.device": device,
    }
    config = run_config(flags, config_file, assignments, resume)
    ranks = in_processes(devices, config.compute.rank_timeout)
    from veneer.screens.train import show_result, train_visibly

    result = train_visibly(config, ranks, resume=resume, as_json=as_json)
    if ranks.first and not as_json:
        show_result(config, result)
