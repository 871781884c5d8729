"""Options that several commands share, and the settings made from them. Nothing heavy is imported until it is
needed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from veneer.commands.parameter_types import ADDRESS, COUNT, FEW, MODEL, PATH, ROWS, SEED, Number, Text
from veneer.enums import Dtype, Method, OtherBase
from veneer.errors import ConfigError

if TYPE_CHECKING:
    from veneer.assistant.request import AssistantRequest
    from veneer.config import ComputeSection, RunConfig
    from veneer.enums import Column
    from veneer.generation.sampling import Sampling
    from veneer.processes.ranks import Ranks

Command = TypeVar("Command", bound=Callable[..., Any])

METHODS = click.Choice([method.value for method in Method])


def examples(*commands: str) -> str:
    """The end of a command's help: examples to copy. A line of more than 80 columns is broken where the text has a
    newline."""
    lines = [f"  veneer {command}".replace("\n", " \\\n      ") for command in commands]
    return "\b\nExamples:\n" + "\n".join(lines)


model_option = click.option(
    "--model", type=MODEL, required=True, help="The model: a directory, a GGUF file or a hub id."
)
adapter_option = click.option("--adapter", type=PATH, help="The folder of an adapter to put on the model.")
device_option = click.option(
    "--device", default="auto", show_default=True, help="Where to compute: auto, cpu, cuda or cuda:N."
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice([dtype.value for dtype in Dtype]),
    default="auto",
    show_default=True,
    help="The number format that the model computes in.",
)


def held_option(default: str) -> Callable[[Command], Command]:
    """The option `--method` of a command whose base model is not trained.

    Args:
        default: a sentence that says how the model is held if the option is not given.
    """
    help_text = f"How the base model is held in memory: qlora quantises it. {default}"
    return click.option("--method", type=METHODS, help=help_text)


base_option = held_option("By default as when the adapter was trained.")
rows_option = click.option(
    "--data",
    type=ROWS,
    help="The rows to compare the export on. By default the evaluation rows of the adapter's run.",
)
columns_option = click.option(
    "--columns",
    metavar="NAMES",
    help="The names of the file's columns, as in the setting data.columns: '{prompt: text, completion: category}'.",
)
limit_option = click.option(
    "--limit", type=COUNT, help="The number of rows to compare, from the start of the file. [default: 20]"
)
gap_option = click.option(
    "--gap",
    type=Number(above=0.0),
    help="The largest difference of a log-probability that is allowed, in nats. By default that of the format.",
)
other_base_option = click.option(
    "--allow-other-base",
    is_flag=True,
    help="Go on with a warning if the adapter was trained with another base model.",
)
base_model_option = click.option(
    "--model", type=MODEL, help="The base model. By default the one that the adapter names."
)

training_model_option = click.option(
    "--model", type=MODEL, help="The model to train: a directory, a GGUF file or a hub id."
)
training_data_option = click.option(
    "--data", type=ROWS, help="The rows to train on: a file of JSONL, JSON, CSV or Parquet."
)
training_method_option = click.option(
    "--method",
    type=METHODS,
    help="What to train: an adapter (lora, qlora) or all weights (full). [default: as in the run of "
    "train.from_adapter, else qlora]",
)
eval_data_option = click.option("--eval-data", type=ROWS, help="The rows to measure the evaluation loss on.")
held_out_option = click.option(
    "--held-out", type=Number(), help="The share of the training rows to hold out for the evaluation loss (0.1: 10 %)."
)
training_device_option = click.option("--device", help="Where to compute: auto, cpu, cuda or cuda:N. [default: auto]")
devices_option = click.option(
    "--devices", type=FEW, help="The number of processes on this machine, each with a GPU or a share of the cores."
)
on_option = click.option(
    "--on",
    metavar="ADDRESS",
    type=ADDRESS,
    help="A Ray cluster to compute on: ray://HOST:PORT, HOST:PORT, or ray for the one on this machine. [default: none]",
)
host_option = click.option("--host", default="127.0.0.1", show_default=True, help="The name or address to listen on.")


def port_option(default: int) -> Callable[[Command], Command]:
    """The option `--port` of a command that listens."""
    help_text = "The port to listen on; 0 chooses a free one."
    return click.option("--port", type=click.IntRange(0, 65535), default=default, show_default=True, help=help_text)


config_option = click.option(
    "--config",
    "config_file",
    type=PATH,
    help="A YAML file of settings (docs/configuration.md).",
)
set_option = click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting, for example train.warmup=0.1."
)


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

    output = flags["output"]
    folder = None if output is None else RunFolder(Path(output))
    if config_file is None and resume and folder is not None and folder.config_file.is_file():
        config_file = folder.config_file if folder.resumable or flags["model"] is None else None
    if resume and config_file is None and folder is not None and flags["model"] is None and not assignments:
        raise ConfigError(
            f"--resume: there is no run to resume in {output}; give the folder of one, or start it with --model and "
            "--data"
        )
    values: dict[str, Any] = {}
    if folder is not None and config_file == folder.config_file:
        values = folder.recorded()
        # The recorded run names one of two alternatives, and the user may now name the other one.
        given = given_keys(flags, assignments)
        for one, other, _ in ALTERNATIVES:
            for named, unnamed in ((one, other), (other, one)):
                if named in given and unnamed not in given:
                    drop(values, unnamed)
    elif config_file is not None:
        values = read_yaml(config_file)
    return parse(with_options(values, flags, assignments), where=str(config_file or "the command line"))


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


def in_processes(devices: int | None, timeout: float = 600.0, *, on: str | None = None) -> Ranks:
    """The ranks of this process. If several processes are asked for and this is not one of them, it runs the command in
    them and exits with their code.

    Args:
        devices: the number of processes; None leaves it to the launcher.
        timeout: the seconds after which the others give up a process that does not answer.
        on: the address of a cluster that computes instead.

    Raises:
        ConfigError: the launcher has started another number of processes, or a cluster is named as well.
    """
    from veneer.processes.ranks import launched

    ranks = launched()
    if on is not None and (devices is not None or ranks.many):
        raise ConfigError(
            "--on computes on the nodes of a cluster, --devices or a launcher in processes on this machine; give "
            "only one of them"
        )
    if devices is not None and devices > 1 and not ranks.many:
        from veneer.processes.launch import launch, this_command

        sys.exit(launch(this_command(), devices, timeout, lambda said: click.echo(f"error: {said}", err=True)))
    if devices is not None and devices != ranks.world:
        raise ConfigError(
            f"--devices {devices} was given, but the launcher started {ranks.world} processes; leave --devices out "
            "under torchrun"
        )
    return ranks


def refuse_processes(devices: int | None, on: str | None = None) -> None:
    """Refuse several processes, or a cluster, for one question.

    Raises:
        ConfigError: several processes or a cluster are asked for, or several processes were started.
    """
    from veneer.processes.ranks import launched

    if (devices or 1) > 1 or on is not None or launched().many:
        raise ConfigError(
            "several processes or a cluster can share only the questions of --input, without --output; one process "
            "answers a single question and writes --output"
        )


def sampling_options(default_tokens: int) -> Callable[[Command], Command]:
    """The options of a command that generates text."""

    def decorate(command: Command) -> Command:
        for option in (
            click.option(
                "--seed",
                type=SEED,
                default=0,
                show_default=True,
                help="The seed of the random draws (temperature above 0).",
            ),
            click.option(
                "--top-p",
                type=Number(),
                default=1.0,
                show_default=True,
                help="Draw only from the likeliest tokens that together have this probability.",
            ),
            click.option(
                "--temperature",
                type=Number(),
                default=0.0,
                show_default=True,
                help="How freely tokens are drawn; 0 always chooses the likeliest.",
            ),
            click.option(
                "--max-new-tokens",
                type=COUNT,
                default=default_tokens,
                show_default=True,
                help="The longest answer, in tokens.",
            ),
            click.option("--system", type=Text(), help="The system message that each conversation begins with."),
        ):
            command = option(command)
        return command

    return decorate


def method_of(name: str | None) -> Method | None:
    """The method of that name, or None."""
    return None if name is None else Method(name)


def other_base_of(allowed: bool) -> OtherBase:
    """What happens if an adapter was trained with another base model."""
    return OtherBase.ALLOW if allowed else OtherBase.REFUSE


def compute_of(device: str, dtype: str) -> ComputeSection:
    """The device and dtype to compute with."""
    from veneer.config import ComputeSection

    return ComputeSection(device=device, dtype=Dtype(dtype))


def assistant_of(model: str, adapter: Path | None, method: str | None, device: str, dtype: str) -> AssistantRequest:
    """The model that the options name."""
    from veneer.assistant.request import AssistantRequest

    return AssistantRequest(model=model, adapter=adapter, method=method_of(method), compute=compute_of(device, dtype))


def sampling_of(max_new_tokens: int, temperature: float, top_p: float, seed: int) -> Sampling:
    """How tokens are drawn."""
    from veneer.generation.sampling import Sampling

    return Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
