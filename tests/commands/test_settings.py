"""Settings from files, `--set` and options: which one holds, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.processes.invoking import refused
from veneer.commands.settings import run_config


def test_only_the_settings_of_the_run_itself_give_way_to_an_alternative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the user's own is no record of a run, although it has the name of one."""
    (tmp_path / "config.yaml").write_text("model: m\noutput: o\ndata: {file: f.jsonl}\ntrain: {epochs: 2}\n")
    monkeypatch.chdir(tmp_path)
    assert "both say how long to train" in refused("train", "--config", "config.yaml", "--steps", 3)


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
