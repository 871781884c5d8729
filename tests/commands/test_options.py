"""Options that several commands have: numbers that are refused, and settings that are given twice."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from invoking import FLOAT32, invoke, refused
from veneer.cli import main
from veneer.commands.options import run_config
from veneer.config import parse
from veneer.config.values import override
from veneer.errors import ConfigError


def test_only_the_settings_of_the_run_itself_give_way_to_an_alternative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the user's own is no record of a run, although it has the name of one."""
    (tmp_path / "config.yaml").write_text("model: m\noutput: o\ndata: {file: f.jsonl}\ntrain: {epochs: 2}\n")
    monkeypatch.chdir(tmp_path)
    assert "both say how long to train" in refused("train", "--config", "config.yaml", "--steps", 3)


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


def test_the_command_given_again_leaves_behind_what_a_run_without_a_checkpoint_had_chosen(tmp_path: Path) -> None:
    """It may have been for other rows. A run with a checkpoint, or whose folder alone is named, is gone on with."""
    (tmp_path / "config.yaml").write_text(f"model: m\noutput: {tmp_path}\ndata: {{file: f}}\ntrain: {{steps: 7}}\n")
    given = {"model": "m", "data.file": "f", "output": str(tmp_path)}
    assert run_config(given, None, (), resume=True).train.steps is None
    assert run_config({**given, "model": None, "data.file": None}, None, (), resume=True).train.steps == 7
    (tmp_path / "checkpoints" / "step-000003").mkdir(parents=True)
    assert run_config(given, None, (), resume=True).train.steps == 7


@pytest.mark.parametrize("command", ["train", "plan", "sweep", "compare", "quantize"])
def test_a_setting_that_is_set_to_two_values_is_refused_with_both(command: str, tmp_path: Path) -> None:
    own: list[str | Path] = ["--grid", "train.seed=1,2"] if command == "sweep" else []
    own += [] if command == "plan" else ["--output", tmp_path / "out"]
    own += [] if command == "quantize" else ["--data", "rows.jsonl"]
    twice = ["--set", "quant.block=32", "--set", "quant={block: 64}"]
    said = refused(command, "--model", "m", *own, *twice)
    assert "a setting has two values; give one of them:\n  - --set quant.block: 32 and 64" in said


def test_an_option_and_a_section_give_a_setting_one_value() -> None:
    said = refused("plan", "--model", "m", "--rank", 4, "--set", "lora={rank: 8}")
    assert "a setting has two values; give one of them:\n  - --rank 4 and --set lora={rank: 8}" in said
