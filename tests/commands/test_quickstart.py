"""The command's own part; the walk through it is tested in tests/test_walkthrough.py and tests/screens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.processes.invoking import invoke, refused
from veneer.enums import Method
from veneer.errors import ModelError
from veneer.screens import quickstart as screen


def test_options_reach_the_walk_and_its_error_is_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def walk(*arguments: Any, **named: Any) -> None:
        asked.append((arguments, named))
        raise ModelError("the model is not there")

    monkeypatch.setattr(screen, "quickstart_visibly", walk)
    message = refused("quickstart", "--method", "lora", "--rows", "7", "--output", tmp_path / "out", "--device", "cpu")
    assert "the model is not there" in message
    ((arguments, named),) = asked
    given = [*arguments, *named.values()]
    for value in (Method.LORA, 7, tmp_path / "out", "cpu"):
        assert value in given


@pytest.mark.parametrize(("option", "value"), [("--rows", "1"), ("--method", "dora"), ("--rows", "many")])
def test_values_that_cannot_be_are_refused_before_anything_runs(option: str, value: str) -> None:
    assert value in invoke("quickstart", option, value).stderr
    refused("quickstart", option, value)
