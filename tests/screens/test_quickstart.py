"""The quickstart from beginning to end: what it leaves, and that it reaches what it promises."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.models.tiny import run_config
from helpers.support import smollm2_gguf
from veneer.screens.quickstart import next_commands, program


def run_quickstart(folder: Path, *arguments: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "veneer", "quickstart", "--json", *arguments],
        cwd=folder,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary: dict[str, object] = json.loads(done.stdout)
    return summary


def test_the_next_commands_can_be_given_as_they_are_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.chdir(tmp_path)
    for name, expected in (("__main__.py", f"{sys.executable} -m veneer"), ("veneer", "bin/veneer")):
        called = tmp_path / "bin" / name
        called.parent.mkdir(exist_ok=True)
        called.touch()
        monkeypatch.setattr(sys, "argv", [str(called)])
        assert program() == expected
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/veneer")
    assert program() == "veneer"


def test_the_next_commands_hold_names_with_spaces_and_brackets(tmp_path: Path) -> None:
    config = run_config(tmp_path / "my model", tmp_path / "rows.jsonl", tmp_path / "out [b]")
    for words in map(shlex.split, next_commands(config)):
        assert words[words.index("--model") + 1] == config.model
        assert "--adapter" not in words or words[words.index("--adapter") + 1] == config.output


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_tiny_model_goes_through_it_by_the_other_methods(method: str, tiny_model: Path, tmp_path: Path) -> None:
    summary = run_quickstart(tmp_path, "--model", str(tiny_model), "--rows", "3", "--method", method)
    assert summary["method"] == method
    assert (tmp_path / "quickstart-output" / "loss.svg").is_file()


@pytest.mark.slow
@pytest.mark.longest
def test_the_real_model_learns_the_task_and_the_base_does_not_know_it(tmp_path: Path) -> None:
    smollm2_gguf()
    # The whole of it, except on a slow processor: there one thread would need 40 minutes.
    summary = run_quickstart(tmp_path, "--time-limit", "20m")
    sets = summary["sets"]
    assert isinstance(sets, dict)
    measured = {
        (name, row["name"]): (row["base"], row["adapter"])
        for name, report in sets.items()
        for row in report["comparison"]
    }
    assert measured["new records", "exact"][0] <= 0.01
    # The README says 85 % or more. 150 rows leave six points of chance, and another processor type rounds differently.
    # Where the limit left out steps and messages, it must still be plain that it learned: 76 steps reached 65 and 23 %.
    records, fields, phrasings = (0.80, 0.95, 0.40) if summary["shortening"] is None else (0.50, 0.85, 0.10)
    assert measured["new records", "exact"][1] >= records
    assert measured["new records", "fields"][1] >= fields
    assert measured["new phrasings", "exact"][1] >= phrasings
