"""The plan of a run that has not begun: the chosen settings, and the memory and time that it will need."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from functools import reduce
from operator import getitem
from typing import Any

from veneer.backends.describe import describe_model
from veneer.config import DataSection, RewardSpec, RunConfig
from veneer.config.values import flat, read_assignment
from veneer.data.rows import Rows, load_rows
from veneer.enums import RowKind
from veneer.errors import ConfigError
from veneer.events import Event, Note, Subscriber, ignore
from veneer.io.checkpoint import open_checkpoint
from veneer.io.tokenizer import Tokenizer
from veneer.machine.hardware import resolve_device
from veneer.planning.forecast import Forecast
from veneer.planning.machine import this_machine
from veneer.run_records.record import default_settings
from veneer.studio.path_names import values_without_paths
from veneer.studio.process_size import run_process_bytes
from veneer.text.strict_json import to_text
from veneer.training.prepare import LoadRows, prepare

NO_NAMES: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """The plan of a run."""

    config: RunConfig
    """The configuration of the run, with a value chosen for every setting that was left open."""
    forecast: Forecast
    notes: list[str]
    """Notes on what was found and chosen, and why."""


def planned(
    config: RunConfig,
    rate_multiplier: float | None = None,
    *,
    rows: LoadRows = load_rows,
    emit: Subscriber = ignore,
) -> PlannedRun:
    """Plan a run as `veneer train` does.

    Args:
        config: the run.
        rate_multiplier: the factor for the chosen or given learning rate; None leaves the rate unchanged.
        rows: reads and encodes the rows.
        emit: receives everything that was found and chosen, and the progress of reading the rows.

    Raises:
        VeneerError: something cannot be used. A run that does not fit raises nothing: the forecast says it.
    """
    notes: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.message)
        emit(event)

    origin = open_checkpoint(config.model, revision=config.revision)
    read: list[Rows] = []

    def load(data: DataSection, tokenizer: Tokenizer, emit: Subscriber, kind: RowKind) -> Rows:
        read.append(rows(data, tokenizer, emit, kind))
        return read[-1]

    # The run has a process of its own, so what the studio holds in memory, such as the chat's model, does not count.
    machine = this_machine(resolve_device(config.compute.device), config.compute)
    if machine.device == "cpu":
        machine = replace(machine, start=lambda: run_process_bytes(config.model, read[-1]))
    prepared = prepare(config, describe_model(origin, config.backend), machine, load, hear)
    resolved = prepared.config
    if rate_multiplier is not None:
        rate = float(resolved.train.learning_rate) * rate_multiplier
        resolved = resolved.changed("train", {"learning_rate": rate})
    return PlannedRun(resolved, prepared.forecast, notes)


def plan_json(plan: PlannedRun) -> dict[str, Any]:
    """A plan as plain values."""
    return {
        "object": "veneer.plan",
        "fits": plan.forecast.refusal is None,
        "refusal": plan.forecast.refusal,
        "plan": plan.forecast.to_json(),
        "lines": plan.forecast.lines() if plan.forecast.refusal is None else [],
        "notes": plan.notes,
        "settings": {
            key: value
            for key, value in flat(plan.config.model_dump(mode="json")).items()
            if key not in ("model", "output", "data.file", "data.eval_file")
        },
    }


def command_line(config: RunConfig, learning_rate: float | None = None, names: Mapping[str, str] = NO_NAMES) -> str:
    """The command that trains the same run in a terminal. It sets everything that is not the default.

    Args:
        config: the configuration of the run, as it was asked for.
        learning_rate: the peak learning rate, if it differs from that of the configuration.
        names: the names that users know for the paths in the configuration. A name may contain any characters, and is
            quoted for the shell and for YAML.
    """
    if learning_rate is not None:
        config = config.changed("train", {"learning_rate": learning_rate})
    defaults = default_settings()
    nested: Any = values_without_paths(config.model_dump(mode="json"), names)
    words = ["veneer", "train", "--model", nested["model"], "--output", nested["output"]]
    for option, key in (("--data", "file"), ("--eval-data", "eval_file")):
        if nested["data"][key] is not None:
            words += [option, nested["data"][key]]
    for key, default in defaults.items():
        # The keys come from the settings themselves, since the value of a setting may be a mapping.
        value: Any = reduce(getitem, key.split("."), nested)
        if value != default and key != "data.eval_file":
            given = _given(value) if key == "rewards" else value
            words += ["--method", value] if key == "method" else ["--set", f"{key}={_yaml(given)}"]
    return shlex.join(words)


def _yaml(value: Any) -> str:
    """A value as `--set` reads it: JSON, which is also YAML. A string stays unquoted if YAML reads it as itself."""
    if isinstance(value, str):
        with suppress(ConfigError):
            if read_assignment(f"text={value}")[1] == value:
                return value
    return to_text(value, ensure_ascii=False)


def _given(rewards: list[Any]) -> list[Any]:
    """Rewards without the fields that have their default values."""
    defaults = {name: info.default for name, info in RewardSpec.model_fields.items()}
    plain = {name: one.value if isinstance(one, Enum) else one for name, one in defaults.items()}
    return [{key: value for key, value in one.items() if value != plain.get(key)} for one in rewards]
