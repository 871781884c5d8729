"""Facts about the run that made an adapter, from its `run.lock` and its log."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from veneer.enums import ObjectiveName
from veneer.errors import AdapterError
from veneer.event_log import by_step
from veneer.run_folder import RunFolder, run_of

POINTS = 1_000
"""The number of points of a loss curve that are kept; a longer run is thinned out."""


def training_facts(adapter: Path | None) -> dict[str, Any] | None:
    """The facts of a run and its losses, or None if the adapter has no record of its run.

    Returns:
        `facts`: names and values. `losses`: `steps` and `evaluations`, each as pairs of step and loss. `loss_unit`: the
        unit of these losses, or an empty text. `samples`: the model's answers during the run, in order, in the form of
        `SamplesAnswered`.

    Raises:
        AdapterError: the record is damaged, or cannot be read.
        CheckpointError: the log cannot be read.
    """
    run = None if adapter is None else run_of(adapter)
    if run is None or not run.lock_file.is_file():
        return None
    try:
        lock = json.loads(run.lock_file.read_text(encoding="utf-8"))
        facts, objective = _facts(lock), ObjectiveName(lock["config"].get("objective", "sft"))
    except OSError as error:
        raise AdapterError(f"{run.lock_file}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(f"{run.lock_file} is damaged: {error!r}") from error
    return {
        "facts": facts | _measured(run),
        "losses": run_losses(run),
        "loss_unit": objective.loss_unit,
        "samples": run_samples(run),
    }


def _facts(lock: dict[str, Any]) -> dict[str, Any]:
    config, train, lora, hardware = lock["config"], lock["config"]["train"], lock["config"]["lora"], lock["hardware"]
    targets = lora["target_modules"]
    adapter = {
        "rank, alpha": f"{lora['rank']}, {lora['alpha']:g}",
        "target modules": targets if isinstance(targets, str) else ", ".join(targets),
    }
    files = [f"{_file_named(config, key)} (SHA-256 {digest[:12]}…)" for key, digest in lock["data"]["files"].items()]
    return {
        "base model": lock["base"]["model"],
        "method": config["method"],
        "objective": config.get("objective", "sft"),
        **({} if config["method"] == "full" else adapter),
        "steps": lock["steps"],
        "learning rate": f"{train['learning_rate']:g} ({train['schedule']})",
        "optimiser": train["optimizer"],
        "seed": lock["seed"],
        "training rows": lock["data"]["rows"],
        "evaluation rows": lock["data"]["evaluation_rows"],
        "data files": ", ".join(files),
        "computed on": f"{hardware['name']} ({hardware['device']}), {hardware['threads']} threads",
        "versions": ", ".join(f"{name} {version}" for name, version in lock["versions"].items()),
    }


def _file_named(config: dict[str, Any], key: str) -> str:
    """The name of a file of rows, by its key in `run.lock` (`veneer.data.files.sources.RowFile.key`): `data.file`,
    `data.sources.0.file`, either followed by a file name if a pattern matched several."""
    path, _, name = key.partition(" ")
    value: Any = config
    for part in path.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return name or str(value)


def _measured(run: RunFolder) -> dict[str, Any]:
    """The time and memory of the run, and its best evaluation."""
    finished = [event for event in run.each_event() if event["event"] == "RunFinished"]
    if not finished:
        return {}
    last = finished[-1]
    found: dict[str, Any] = {"seconds": round(float(str(last["seconds"])), 1)}
    found["peak memory, MB"] = round(float(str(last["memory_mb"])))
    by = str(last.get("best_by", "loss"))  # absent in older records, which knew only the loss
    name, value = ("evaluation loss", last.get("best_loss")) if by == "loss" else (by, last.get("best_value"))
    if value is not None:
        found[f"best {name}"] = f"{float(str(value)):.4f} after step {last['best_step']}"
    return found | _last_metrics(run)


def _last_metrics(run: RunFolder) -> dict[str, str]:
    """The metrics of the objective at the last evaluation, or at the last step if nothing was evaluated."""
    for kind, which in (("Evaluated", "evaluation"), ("StepDone", "step")):
        metrics = None
        for event in run.each_event():
            metrics = event.get("metrics") if event["event"] == kind else metrics
        if isinstance(metrics, dict) and metrics:
            return {f"{name}, last {which}": f"{float(value):.4f}" for name, value in metrics.items()}
    return {}


def run_samples(run: RunFolder) -> list[dict[str, Any]]:
    """The answers of a run's samples, from its events. If a resumed run made a step twice, the later one counts."""
    kept = ("step", "prompts", "answers", "cut_short", "share")
    found = [event for event in run.each_event() if event["event"] == "SamplesAnswered"]
    return list({event["step"]: {key: event[key] for key in kept} for event in found}.values())


def run_losses(run: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """The losses of a run's steps and evaluations, from its events."""
    steps, evaluations = (by_step(run.each_event(), kind, "loss") for kind in ("StepDone", "Evaluated"))
    drawn = islice(steps.items(), 0, None, max(1, -(-len(steps) // POINTS)))
    return {"steps": list(drawn), "evaluations": list(evaluations.items())}
