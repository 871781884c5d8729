"""What `veneer quickstart` shows: training, evaluation, and the model before and after."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from veneer.bundled import SETS, bundled_data
from veneer.config import RunConfig
from veneer.enums import Method
from veneer.evaluation.report import Report
from veneer.screens.console import console, output_console, say, show_table
from veneer.screens.evaluate import comparison_table, sample_table
from veneer.screens.events import EventScreen
from veneer.screens.figures import duration
from veneer.screens.train import train_visibly
from veneer.text.counting import count_of
from veneer.walkthrough import scored, told_of_all, walkthrough_config

SAMPLES = 3


def program() -> str:
    """How the user can call veneer from the current folder."""
    called = Path(sys.argv[0])
    if shutil.which("veneer") or not called.is_file():
        return "veneer"
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m veneer"
    return shlex.quote(os.path.relpath(called))


def quickstart_visibly(
    method: Method,
    *,
    model: str | None,
    output: Path | None,
    rows: int,
    device: str,
    time_limit: float,
    as_json: bool,
) -> dict[str, Any]:
    """Train, evaluate and show. Returns all measurements as plain values.

    Args:
        method: how the model is trained.
        model: a model to use instead of the bundled one.
        output: the folder of the run, new or that of a quickstart that was stopped; by default a new one.
        rows: how many messages of each held-out set to answer.
        device: the device that computes.
        time_limit: how many seconds training and evaluation may take.
        as_json: whether the caller prints the results itself.

    Raises:
        VeneerError: the model is absent, the output folder holds something else, or a step fails.
    """
    config = walkthrough_config(method, model, output, device, time_limit)
    screen = console()
    say(screen, f"1. Training {method.value} on {config.data.training_name}", style="bold")
    begun = time.perf_counter()
    with told_of_all(config, time_limit):
        trained = train_visibly(config, resume=True)
    say(screen, "2. Evaluating base and tuned model on held-out messages, greedy answers", style="bold")
    with EventScreen(screen) as shown:
        result = scored(trained, config, rows, shown, begun, time_limit)
    if result.shortening is not None:
        say(screen, result.shortening.line(time_limit))
    summary = result.to_json()
    if not as_json:
        _show(summary, result.reports, config)
    return summary


def _show(summary: dict[str, Any], reports: dict[str, Report], config: RunConfig) -> None:
    output = output_console()
    tuned = "tuned" if config.method is Method.FULL else "adapter"
    for name, report in reports.items():
        title = f"{name} ({count_of(report.rows, 'message')}, not trained on)"
        show_table(output, comparison_table(title, report.comparison, tuned=tuned))
    samples = next(iter(reports.values())).samples[:SAMPLES]
    show_table(output, sample_table("Three of the new records", samples, tuned=tuned))
    output.print(
        f"trained in {duration(summary['train_seconds'])} ({summary['tokens_per_second']:,.0f} tokens/s), "
        f"peak memory {summary['peak_memory_mb']:,} MB\n"
        f"evaluated in {duration(sum(report.seconds for report in reports.values()))}",
        highlight=False,
    )
    what = "model" if config.method is Method.FULL else "adapter"
    say(output, f"\nThe {what} is in {config.output}, its loss curve in {config.output}/loss.svg. Next:")
    for command in next_commands(config):
        output.print(f"  {command}", soft_wrap=True, highlight=False, markup=False, emoji=False)


def next_commands(config: RunConfig) -> list[str]:
    """What to do with the result, as commands that can be copied."""
    folder, model = shlex.quote(config.output), shlex.quote(config.model)
    data = shlex.quote(str(bundled_data() / SETS["new phrasings"]))
    use = f"--model {folder}" if config.method is Method.FULL else f"--model {model} --adapter {folder}"
    return [
        f"{program()} chat {use}",
        f"{program()} evaluate {use} --data {data}",
        f"{program()} train --model {model} --data YOUR_ROWS.jsonl --output my-adapter",
    ]
