"""Options that several commands have: numbers that are refused."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from helpers.processes.invoking import FLOAT32, invoke
from veneer.cli import main
from veneer.config import parse
from veneer.config.values import override
from veneer.errors import ConfigError


@pytest.mark.parametrize("command", ["generate", "evaluate", "chat"])
def test_an_answer_longer_than_the_context_is_refused_with_what_is_possible(
    command: str, tiny_model: Path, tiny_data: Path
) -> None:
    asked = {"generate": ["--prompt", "hi"], "evaluate": ["--data", tiny_data], "chat": []}[command]
    result = invoke(command, "--model", tiny_model, *asked, "--max-new-tokens", 10**9, *FLOAT32, stdin="hi\n")
    assert result.exit_code == 2
    assert "max_new_tokens: 1,000,000,000, but the model's context has 512 tokens" in result.stderr


NUMERIC = [
    (name, parameter.opts[0])
    for name, command in main.commands.items()
    for parameter in command.params
    if isinstance(parameter.type, click.types.IntParamType | click.IntRange)
]


@pytest.mark.parametrize(("command", "option"), NUMERIC)
@pytest.mark.parametrize("number", [10**12, 10**18, 10**40])
def test_every_number_of_the_command_line_has_a_largest(command: str, option: str, number: int) -> None:
    """What is required beside it is missing: click looks at the number first only where it is refused."""
    (parameter,) = [one for one in main.commands[command].params if option in one.opts]
    with pytest.raises(click.BadParameter, match=r"is not in the range \d+<=x<=\d+"):
        parameter.type.convert(str(number), parameter, None)


@pytest.mark.parametrize("option", ["--steps", "--batch-size", "--rank"])
def test_an_option_for_a_setting_takes_what_the_setting_takes(option: str) -> None:
    (parameter,) = [one for one in main.commands["train"].params if option in one.opts]
    assert isinstance(parameter, click.Option)
    assert isinstance(parameter.type, click.IntRange)
    key = (parameter.help or "").rpartition("(")[2].rstrip(").")
    base = {"model": "m", "output": "o", "data": {"file": "f"}}
    parse(override(base, [f"{key}={parameter.type.max}"]), where="test")
    with pytest.raises(ConfigError, match=key):
        parse(override(base, [f"{key}={(parameter.type.max or 0) + 1}"]), where="test")
