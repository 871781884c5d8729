"""What `veneer quickstart` shows: training, evaluation, and the model before and after."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from veneer.assistant import Assistant, AssistantRequest, load_assistant, make_assistant
from veneer.config import RunConfig
from veneer.data.records import read_records
from veneer.enums import Method
from veneer.evaluation.run import Report, RowSet, evaluate_rows, make_report, prepare, score_rows
from veneer.events import Subscriber
from veneer.io.checkpoint import open_checkpoint
from veneer.quickstart import SETS, bundled_data, bundled_model, configuration, free_folder
from veneer.screens.console import console, show_table
from veneer.screens.evaluate import comparison_table, sample_table
from veneer.screens.events import EventScreen
from veneer.screens.figures import duration
from veneer.screens.train import train_visibly
from veneer.training.session import RunResult
from veneer.training.trainable import AdapterTraining

SAMPLES = 3


def program() -> str:
    """How the user can call veneer again from where they are."""
    called = Path(sys.argv[0])
    if shutil.which("veneer") or not called.is_file():
        return "veneer"
    return os.path.relpath(called)


def run(
    method: Method, *, model: str | None, output: Path | None, rows: int, device: str, as_json: bool
) -> dict[str, Any]:
    """Train, evaluate and show; returns everything that was measured as plain values.

    Args:
        method: what is trained.
        model: in place of the bundled one.
        output: folder of the run; by default a new one.
        rows: messages of each held-out set that are answered.
        device: where to compute.
        as_json: leave the showing to the caller.

    Raises:
        VeneerError: the model is absent, the output folder is taken, or a step fails.
    """
    source = model or bundled_model()
    output = output or free_folder("quickstart-output")
    screen = console()
    screen.print(f"[bold]1. Training[/bold] {method.value} on {bundled_data() / 'train.jsonl'}", highlight=False)
    config = configuration(method, source, output, device)
    begun = time.perf_counter()
    result = train_visibly(config)
    train_seconds = time.perf_counter() - begun
    screen.print("[bold]2. Evaluating[/bold] base and tuned model on held-out messages, greedy answers")
    with EventScreen(screen) as shown:
        reports = _evaluate(result, config, rows, shown)
    summary = {
        "method": method.value,
        "model": source,
        "output": str(output),
        "train_seconds": round(train_seconds, 1),
        "tokens_per_second": round(result.progress.tokens / result.progress.seconds, 1),
        "peak_memory_mb": round(result.peak_memory_mb),
        "bytes_on_disk": sum(file.stat().st_size for file in output.iterdir() if file.is_file()),
        "sets": {name: asdict(report) for name, report in reports.items()},
    }
    if not as_json:
        _show(summary, reports, config)
    return summary


def _evaluate(result: RunResult, config: RunConfig, rows: int, screen: Subscriber) -> dict[str, Report]:
    reports = {}
    assistant = _assistant(result, config)
    base = None
    if config.method is Method.FULL:
        # Full fine-tuning has changed the weights, so the base is loaded again beside them.
        request = AssistantRequest(model=config.model, method=Method.LORA, compute=config.compute)
        base = load_assistant(request, subscribers=[screen])
    for name, file in SETS.items():
        records = read_records(bundled_data() / file)[:rows]
        prepared = prepare(assistant, records, emit=screen)
        if base is None:
            reports[name] = evaluate_rows(assistant, prepared, emit=screen)
        else:
            reports[name] = _score_two(base, assistant, prepared, screen)
    return reports


def _score_two(base: Assistant, tuned: Assistant, rows: RowSet, emit: Subscriber) -> Report:
    begun = time.perf_counter()
    before = score_rows(base, rows, emit=emit, who="base")
    after = score_rows(tuned, rows, emit=emit, who="tuned model")
    return make_report(rows, before, after, time.perf_counter() - begun)


def _assistant(result: RunResult, config: RunConfig) -> Assistant:
    """The trained model as it stands in memory."""
    trained = result.trainable
    adapter = trained.adapter if isinstance(trained, AdapterTraining) else None
    return make_assistant(result.model, open_checkpoint(config.model), adapter)


def _show(summary: dict[str, Any], reports: dict[str, Report], config: RunConfig) -> None:
    output = Console()
    tuned = "tuned" if config.method is Method.FULL else "adapter"
    for name, report in reports.items():
        title = f"{name} ({report.rows} messages never trained)"
        show_table(output, comparison_table(title, report.comparison, tuned=tuned))
    samples = next(iter(reports.values())).samples[:SAMPLES]
    show_table(output, sample_table("Three of the new records", samples, tuned=tuned))
    output.print(
        f"trained in {duration(summary['train_seconds'])} ({summary['tokens_per_second']:,.0f} tokens/s), "
        f"peak memory {summary['peak_memory_mb']:,} MB; evaluated in "
        f"{duration(sum(report.seconds for report in reports.values()))}",
        highlight=False,
    )
    folder, data = config.output, bundled_data() / SETS["new phrasings"]
    what = "model" if config.method is Method.FULL else "adapter"
    output.print(
        f"\nThe {what} is in [bold]{folder}[/bold], its loss curve in {folder}/loss.svg. Next:", highlight=False
    )
    use = f"--model {folder}" if config.method is Method.FULL else f"--model {config.model} --adapter {folder}"
    for command in (
        f"{program()} chat {use}",
        f"{program()} evaluate {use} --data {data}",
        f"{program()} train --model {config.model} --data YOUR_ROWS.jsonl --output my-adapter",
    ):
        output.print(f"  {command}", soft_wrap=True, highlight=False, markup=False)
