"""Options that several commands share, and the values made of them. Nothing heavy is imported until it is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from veneer.commands.parameter_types import ADDRESS, COUNT, FEW, MODEL, PATH, ROWS, SEED, Number, Text
from veneer.enums import Dtype, Method, OtherBase

if TYPE_CHECKING:
    from veneer.assistant.request import AssistantRequest
    from veneer.config import ComputeSection
    from veneer.generation.sampling import Sampling

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
