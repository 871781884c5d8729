"""The settings of a run from a file, from `--set` and from options. Nothing heavy is imported until it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veneer.errors import ConfigError

if TYPE_CHECKING:
    from veneer.config import RunConfig
    from veneer.enums import Column

OPTIONS = {
    "model": "--model", "output": "--output", "method": "--method", "data.file": "--data",
    "data.eval_file": "--eval-data", "data.held_out": "--held-out", "data.max_length": "--length",
    "train.epochs": "--epochs", "train.steps": "--steps", "train.from_adapter": "--from-adapter",
    "train.other_base": "--allow-other-base", "train.time_limit": "--time-limit",
    "train.learning_rate": "--learning-rate", "train.examples_per_step": "--batch-size", "lora.rank": "--rank",
    "compute.device": "--device", "compute.memory_limit_mb": "--memory-limit-mb",
}  # fmt: skip
"""The options that are shortcuts for settings, by the setting's key."""


def columns_of(text: str | None) -> Mapping[Column, str]:
    """The setting `data.columns` as it is written on the command line."""
    from veneer.config import parse
    from veneer.config.values import read_value
    from veneer.given_rows import NO_FILE

    if text is None:
        return {}
    data = {"file": NO_FILE, "columns": read_value(text, f"--columns {text!r}")}
    return parse({"model": NO_FILE, "output": NO_FILE, "data": data}, where="the command line").data.columns


def run_config(
    flags: Mapping[str, Any], config_file: Path | None, assignments: Sequence[str], resume: bool
) -> RunConfig:
    """Settings from the file, then `--set` and options; a resumed run starts from the settings that it recorded.

    A run that ended before its first checkpoint cannot be resumed. If its command is given again, the settings that it
    chose, perhaps for other rows, are discarded.

    Args:
        flags: the values of the options by the key of the setting; None where an option was not given.
        config_file: a YAML file.
        assignments: `--set`.
        resume: whether to resume the run in the output folder.

    Raises:
        ConfigError: an option and `--set` give one setting two values; the settings cannot be used; or there is neither
            a run to resume nor the settings to start one.
    """
    from veneer.config import ALTERNATIVES, parse
    from veneer.config.values import drop, read_yaml
    from veneer.run_folder import RunFolder

    config_file = _config_file(flags, config_file, assignments, resume)
    folder = None if flags["output"] is None else RunFolder(Path(flags["output"]))
    values: dict[str, Any] = {}
    given = given_keys(flags, assignments)
    if folder is not None and config_file == folder.config_file:
        values = folder.recorded()
        # The recorded run names one of two alternatives, and the user may now name the other one.
        for one, other, _ in ALTERNATIVES:
            for named, unnamed in ((one, other), (other, one)):
                if named in given and unnamed not in given:
                    drop(values, unnamed)
    elif config_file is not None:
        values = read_yaml(config_file)
    if config_file is None:
        where = "the command line"
    else:
        where = f"{config_file} with the settings of the command line" if given else str(config_file)
    return parse(with_options(values, flags, assignments), where=where)


def _config_file(
    flags: Mapping[str, Any], config_file: Path | None, assignments: Sequence[str], resume: bool
) -> Path | None:
    """The file that the settings start from, if any; the arguments are those of `run_config`.

    Raises:
        ConfigError: there is neither a run to resume nor the settings to start one.
    """
    from veneer.run_folder import RunFolder

    output = flags["output"]
    if config_file is not None or not resume or output is None:
        return config_file
    folder, model = RunFolder(Path(output)), flags["model"]
    if folder.config_file.is_file() and (folder.resumable or model is None):
        return folder.config_file
    if model is None and not assignments:
        raise ConfigError(
            f"--resume: there is no run to resume in {output}; give the folder of one, or start it with --model and "
            "--data"
        )
    return None


def given_keys(flags: Mapping[str, Any], assignments: Sequence[str]) -> list[str]:
    """Dotted keys of the settings that options and `--set` give a value to; the arguments are those of `run_config`.

    Raises:
        ConfigError: an assignment cannot be read.
    """
    from veneer.config.values import read_assignment

    named = [key for key, value in flags.items() if value is not None]
    return [*named, *(key for key, _ in map(read_assignment, assignments))]


def with_options(values: Mapping[str, Any], flags: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A copy of nested settings, overridden by `--set` and then by the options that were given.

    Args:
        values: the settings of a file.
        flags: the values of the options by the key of the setting; None where an option was not given.
        assignments: `--set`.

    Raises:
        ConfigError: an assignment cannot be read, or a setting is given two values, by `--set` twice or by `--set` and
            an option; the error names all of them.
    """
    from veneer.config.values import flat, given_twice, laid_over, read_assignment, refuse_two_values

    given = {key: value for key, value in flags.items() if value is not None}
    settings = [read_assignment(assignment) for assignment in assignments]
    found = [
        f"{OPTIONS[key]} {given[key]} and --set {assignment.strip()}"
        for assignment, (section, content) in zip(assignments, settings, strict=True)
        for key, value in flat({section: content}).items()
        if key in given and value != given[key]
    ]
    found += [f"--set {twice}" for twice in given_twice(settings)]
    refuse_two_values(found)
    return laid_over(values, [*settings, *given.items()])
