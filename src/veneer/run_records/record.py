"""A run as its folder describes it, in plain values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from veneer.config import DataSection, RunConfig
from veneer.config.values import flat
from veneer.io.files import read_regular
from veneer.run_folder import RunFolder
from veneer.run_records.log import EvaluatedStep, RunLog
from veneer.run_records.state import RunState, state_of


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """The record of a run."""

    name: str
    """The path of its folder, relative to the searched one; the folder's name if it was given itself."""
    path: Path
    state: RunState
    model: str | None
    """The base model, as given to the run; None if its configuration is not written yet."""
    method: str | None
    steps: int
    """The steps of the whole run; 0 if they are not known yet."""
    step: int
    """The last completed step."""
    loss: float | None
    """The loss of the last step."""
    evaluation_loss: float | None
    """The loss of the last evaluation."""
    best_loss: float | None
    """The loss of the best evaluation."""
    best_step: int | None
    best_by: str
    """What evaluations are compared by: `loss`, or the name of a metric."""
    best_value: float | None
    """The metric of the best evaluation; None if that is the loss."""
    learning_rate: float | None
    """The peak learning rate."""
    tokens: int
    """The number of trained tokens."""
    seconds: float
    """The seconds of its steps."""
    memory_mb: float | None
    """Peak memory, in MB."""
    planned_memory_mb: float | None
    """Peak memory by the plan, in MB."""
    planned_seconds: float | None
    """Seconds of a step by the plan."""
    begun: float | None
    """When it began, in seconds since 1970."""
    ended: float | None
    """The time of its last event, in seconds since 1970; None while it is running."""
    has_events: bool
    """Whether a line of its log is an event. Without one it is not known how the run ended, and `state` is failed
    unless a process holds or held its folder."""


def read_record(name: str, folder: Path, log: RunLog, settings: Mapping[str, Any]) -> RunRecord:
    """The record of a run.

    Args:
        name: the name of the run.
        folder: the folder of the run.
        log: the run's log, as read last.
        settings: the run's configuration (`read_settings`).
    """
    state = state_of(folder, log.end)
    best = _best(log)
    return RunRecord(
        name=name,
        path=folder,
        state=state,
        model=_text(settings.get("model")),
        method=_text(settings.get("method")),
        steps=log.start.get("steps", 0),
        step=log.steps[-1] if log.steps else 0,
        loss=log.columns["loss"][-1] if log.steps else None,
        evaluation_loss=log.evaluations[-1].loss if log.evaluations else None,
        best_loss=None if best is None else best.loss,
        best_step=None if best is None else best.step,
        best_by=log.evaluations[-1].best_by if log.evaluations else "loss",
        best_value=None if best is None else best.value,
        learning_rate=log.start.get("learning_rate"),
        tokens=int(sum(log.columns["tokens"])),
        seconds=sum(log.columns["seconds"]),
        memory_mb=max(log.columns["memory_mb"], default=None),
        planned_memory_mb=log.start.get("planned_memory_mb"),
        planned_seconds=log.start.get("planned_seconds"),
        begun=log.first_start.get("time"),
        ended=None if state is RunState.RUNNING else log.last_time or None,
        has_events=log.last_time > 0,
    )


def _best(log: RunLog) -> EvaluatedStep | None:
    """The best evaluation: the one with the lowest loss, or the last that was the best so far by a metric."""
    if log.evaluations and log.evaluations[-1].value is not None:
        return next((one for one in reversed(log.evaluations) if one.best), None)
    return min(log.evaluations, key=lambda one: one.loss if math.isfinite(one.loss) else math.inf, default=None)


def read_settings(folder: Path) -> dict[str, Any]:
    """The configuration that a run recorded, as nested values; empty if there is none yet, or it is damaged.

    It is read without checks, whichever version of veneer or other program wrote it. Values that JSON cannot represent
    become text.
    """
    try:
        # An impossible date raises a ValueError.
        values = _plain(yaml.load(read_regular(RunFolder(folder).config_file), Loader=yaml.CSafeLoader))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _text(value: Any) -> str | None:
    """A setting that is text or a path; None if it is neither, as in the file of another program."""
    return value if isinstance(value, str) and "\0" not in value else None


def json_or_none(file: Path) -> dict[str, Any] | None:
    """The mapping in a JSON file of a run's folder (`run.lock`, `summary.json`); None if there is none."""
    try:
        values = json.loads(read_regular(file))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def by_key(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run by their dotted keys; a mapping such as `lora.rank_pattern` is the value of one of them."""
    return flat(settings, whole=default_settings())


def differing_settings(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings that are not equal in all of these runs, apart from their folders.

    Args:
        runs: the settings of each run, by the runs' names.

    Returns:
        For each run the settings in question that it has, by their dotted keys, which have one order in all runs.
    """
    flattened = {name: by_key(settings) for name, settings in runs.items()}
    keys = dict.fromkeys(key for settings in flattened.values() for key in settings if key != "output")
    # As texts, since 1 and true are equal in Python, and a set cannot contain lists and mappings.
    differing = [key for key in keys if len({repr(one[key]) if key in one else "" for one in flattened.values()}) > 1]
    return {name: {key: one[key] for key in differing if key in one} for name, one in flattened.items()}


@cache
def default_settings() -> Mapping[str, Any]:
    """Every setting's default, by its dotted key."""
    whole = RunConfig(model="-", output="-", data=DataSection(file="-")).model_dump(mode="json")
    defaults = {key: value for key, value in flat(whole).items() if key not in ("model", "output", "data.file")}
    return MappingProxyType(defaults)  # it is cached, and made from every section
