"""Options that several commands have, and what becomes of them. Nothing heavy is imported until it is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from veneer.assistant import AssistantRequest
    from veneer.config import ComputeSection, RunConfig
    from veneer.enums import Method
    from veneer.generation import Sampling

Command = TypeVar("Command", bound=Callable[..., Any])

METHODS = click.Choice(["lora", "qlora", "full"])

model_option = click.option("--model", required=True, help="Model: a directory, a GGUF file or a hub id.")
adapter_option = click.option("--adapter", type=click.Path(path_type=Path), help="Folder of an adapter.")
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
dtype_option = click.option(
    "--dtype", type=click.Choice(["auto", "bfloat16", "float32"]), default="auto", show_default=True, help="Compute in."
)
base_option = click.option(
    "--method", type=METHODS, help="Hold the base as this method does; by default as the adapter was trained."
)

rows_option = click.option("--data", help="Rows to compare and measure on; by default the run's evaluation rows.")
limit_option = click.option("--limit", type=click.IntRange(min=1), help="Take only the first rows (to compare on: 20).")
gap_option = click.option(
    "--gap",
    type=click.FloatRange(min=0.0, min_open=True),
    help="Largest log-probability gap allowed, in nats; by default the format's.",
)
base_model_option = click.option("--model", help="The base; by default as the adapter names it.")


def run_config(
    flags: dict[str, Any], config_file: Path | None, assignments: tuple[str, ...], resume: bool
) -> RunConfig:
    """Settings from the file, then `--set`, then flags; a resumed run starts from the settings that it recorded."""
    from veneer.config import override, parse, put, read_yaml
    from veneer.training.result import CONFIG_FILE

    recorded = Path(str(flags.get("output", ""))) / CONFIG_FILE
    if config_file is None and resume and "output" in flags and recorded.is_file():
        config_file = recorded
    values: dict[str, Any] = {} if config_file is None else read_yaml(config_file)
    values = override(values, assignments)
    for key, value in flags.items():
        put(values, key, value)
    return parse(values, where=str(config_file or "the command line"))


def sampling_options(default_tokens: int) -> Callable[[Command], Command]:
    """The options of whatever generates."""

    def decorate(command: Command) -> Command:
        for option in (
            click.option("--seed", default=0, show_default=True, help="Of the draws."),
            click.option("--top-p", default=1.0, show_default=True, help="Draw among the likeliest with this mass."),
            click.option("--temperature", default=0.0, show_default=True, help="0 takes the likeliest token."),
            click.option("--max-new-tokens", default=default_tokens, show_default=True, help="Longest answer."),
            click.option("--system", help="System message."),
        ):
            command = option(command)
        return command

    return decorate


def method_of(name: str | None) -> Method | None:
    """The method of that name, or None."""
    from veneer.enums import Method

    return None if name is None else Method(name)


def compute_of(device: str, dtype: str) -> ComputeSection:
    """Where and in what it is computed."""
    from veneer.config import ComputeSection
    from veneer.enums import Dtype

    return ComputeSection(device=device, dtype=Dtype(dtype))


def assistant_of(model: str, adapter: Path | None, method: str | None, device: str, dtype: str) -> AssistantRequest:
    """The model that the options name."""
    from veneer.assistant import AssistantRequest

    return AssistantRequest(model=model, adapter=adapter, method=method_of(method), compute=compute_of(device, dtype))


def sampling_of(max_new_tokens: int, temperature: float, top_p: float, seed: int) -> Sampling:
    """How tokens are drawn."""
    from veneer.generation import Sampling

    return Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
