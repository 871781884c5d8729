"""Options that several commands have, and what becomes of them. Nothing heavy is imported until it is needed."""

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
    """The end of a command's help: commands that can be copied. A line of more than 80 columns is broken where the
    text has a newline."""
    lines = [f"  veneer {command}".replace("\n", " \\\n      ") for command in commands]
    return "\b\nExamples:\n" + "\n".join(lines)


model_option = click.option(
    "--model", type=MODEL, required=True, help="The model: a directory, a GGUF file or a hub id."
)
adapter_option = click.option("--adapter", type=PATH, help="The folder of an adapter that is put on the model.")
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
        default: how it is held where the option is not given, a sentence.
    """
    help_text = f"How the base model is held in memory: qlora quantises it. {default}"
    return click.option("--method", type=METHODS, help=help_text)


base_option = held_option("By default as when the adapter was trained.")
rows_option = click.option(
    "--data",
    type=ROWS,
    help="The rows that the export is compared on. By default the evaluation rows of the adapter's run.",
)
columns_option = click.option(
    "--columns",
    metavar="NAMES",
    help="The file's names of columns, as data.columns of a run: '{prompt: text, completion: category}'.",
)
limit_option = click.option(
    "--limit", type=COUNT, help="The number of rows to take from the start of the file. By default 20 are compared."
)
gap_option = click.option(
    "--gap",
    type=Number(above=0.0),
    help="The largest difference of a log-probability that is allowed, in nats. By default the format's own.",
)
other_base_option = click.option(
    "--allow-other-base",
    is_flag=True,
    help="Go on where the adapter was trained beside another base model: a warning in place of an error.",
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
    help="What is trained: an adapter (lora, qlora) or all weights (full). [default: that of the adapter's run under "
    "train.from_adapter, else qlora]",
)
eval_data_option = click.option("--eval-data", type=ROWS, help="The rows that the evaluation loss is measured on.")
held_out_option = click.option(
    "--held-out", type=Number(), help="The share of the training rows that is kept for the evaluation loss (0.1: 10 %)."
)
training_device_option = click.option("--device", help="Where to compute: auto, cpu, cuda or cuda:N. [default: auto]")
devices_option = click.option(
    "--devices", type=FEW, help="The number of processes on this machine, each with a GPU or a share of the cores."
)
on_option = click.option(
    "--on",
    metavar="ADDRESS",
    type=ADDRESS,
    help="A Ray cluster that computes: ray://HOST:PORT, HOST:PORT, or ray for the one on this machine. [default: none]",
)
host_option = click.option("--host", default="127.0.0.1", show_default=True, help="The name or address to listen on.")


def port_option(default: int) -> Callable[[Command], Command]:
    """The option `--port` of a command that listens."""
    help_text = "The port to listen on; 0 takes a free one."
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
"""The options that are shortcuts of settings, by the setting's key."""


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

    Where a run ended before its first checkpoint, and its command is given again, nothing is there to go on with: what
    that run had chosen, perhaps for other rows, is left behind.

    Args:
        flags: the values of the options by the key of the setting; None where an option was not given.
        config_file: a YAML file.
        assignments: `--set`.
        resume: whether the run in the output folder is gone on with.

    Raises:
        ConfigError: an option and `--set` give one setting two values, or the settings cannot be used; or there is no
            run to go on with, and nothing to start one from.
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
            f"--resume: there is no run in {output} to go on with; give the folder of one, or start it with --model "
            "and --data"
        )
    values: dict[str, Any] = {}
    if folder is not None and config_file == folder.config_file:
        values = folder.recorded()
        # The recorded run spells out one of two alternatives, and the user may now name the other one.
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
    """A copy of nested settings with `--set`, and then the options that were given, laid over it.

    Args:
        values: the settings of a file.
        flags: the values of the options by the key of the setting; None where an option was not given.
        assignments: `--set`.

    Raises:
        ConfigError: an assignment cannot be read, or a setting has two values, by `--set` twice or by an option too;
            all such are named.
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
    """Run this command in several processes on this machine, and exit as they do, if it is asked for and this is not
    one of them; else the place of this process.

    Args:
        devices: the number of processes; None where the launcher says it.
        timeout: seconds after which they give up one that does not answer.
        on: the address of a cluster that computes in their place.

    Raises:
        ConfigError: the launcher has started another number of processes, or a cluster is to compute as well.
    """
    from veneer.processes.ranks import launched

    ranks = launched()
    if on is not None and (devices is not None or ranks.many):
        raise ConfigError(
            "--on computes on the nodes of a cluster, --devices or a launcher in processes of this machine; give one"
        )
    if devices is not None and devices > 1 and not ranks.many:
        from veneer.processes.launch import launch, this_command

        sys.exit(launch(this_command(), devices, timeout, lambda said: click.echo(f"error: {said}", err=True)))
    if devices is not None and devices != ranks.world:
        raise ConfigError(
            f"--devices {devices} was given and {ranks.world} processes were started by the launcher; leave --devices "
            "out under torchrun"
        )
    return ranks


def refuse_processes(devices: int | None, on: str | None = None) -> None:
    """Refuse several processes, or a cluster, for one question.

    Raises:
        ConfigError: they are asked for, or were started.
    """
    from veneer.processes.ranks import launched

    if (devices or 1) > 1 or on is not None or launched().many:
        raise ConfigError(
            "one question is answered by one process, and so is what goes into --output; give --input alone, whose "
            "questions several share"
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
                help="Draw only among the likeliest tokens that together have this probability.",
            ),
            click.option(
                "--temperature",
                type=Number(),
                default=0.0,
                show_default=True,
                help="How freely tokens are drawn; 0 always takes the likeliest.",
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
    """What happens where an adapter was trained beside another base model."""
    return OtherBase.ALLOW if allowed else OtherBase.REFUSE


def compute_of(device: str, dtype: str) -> ComputeSection:
    """Where and in what it is computed."""
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
