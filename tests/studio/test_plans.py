"""The command that the pages give trains the run that was asked for."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from veneer.config import RunConfig, parse
from veneer.config.values import laid_over, read_assignment
from veneer.studio.plans import command_line

BASE = {"model": "m", "method": "lora", "output": "o", "data.file": "r.jsonl"}
OPTIONS = {"--model": "model", "--method": "method", "--output": "output", "--data": "data.file"}


def asked_for(settings: dict[str, Any]) -> RunConfig:
    return parse(laid_over({}, [*BASE.items(), *settings.items()]), where="test")


def read_back(command: str) -> RunConfig:
    """The run that a terminal makes of a command."""
    words = shlex.split(command)
    pairs = zip(words[2::2], words[3::2], strict=True)
    given = [read_assignment(value) if word == "--set" else (OPTIONS[word], value) for word, value in pairs]
    return parse(laid_over({}, given), where="test")


@pytest.mark.parametrize(
    "settings",
    [
        {"data.columns": {"prompt": "frage: eins", "completion": "antwort"}},
        {"lora.rank": 4, "lora.rank_pattern": {"q_proj": 4}, "lora.alpha_pattern": {"v_proj": 8.0}},
        {"train.samples_every": 1, "train.sample_prompts": ["Hello, world", "a: b", "x # y", "[z]", "null", "1"]},
        {"tracking.project": "2024"},
        {"tracking.project": "a: b"},
        {"tracking.project": " é'\n"},
        {"train.learning_rate": 1e-05, "train.steps": 3, "lora.target_modules": ["q_proj", "v_proj"]},
        {"objective": "grpo", "rewards": [{"metric": "exact", "column": "a, b", "weight": 0.5}]},
    ],
)
def test_the_command_has_every_setting(settings: dict[str, Any]) -> None:
    asked = asked_for(settings)
    assert read_back(command_line(asked)) == asked


@pytest.mark.parametrize("name", ["my rows.jsonl", "x; touch pwned #.jsonl", "it's.jsonl", '"$(id)"'])
def test_what_a_client_calls_its_file_is_one_word_of_the_command(name: str) -> None:
    """It is copied into a terminal, and whoever has named the file need not be the one who copies."""
    command = command_line(asked_for({"train.from_adapter": "/runs/a"}), names={"r.jsonl": name, "/runs/a": name})
    made = read_back(command)
    assert (made.data.file, made.train.from_adapter) == (name, name)


def test_a_plain_text_stands_as_it_is() -> None:
    assert command_line(asked_for({"tracking.project": "claims"})).endswith("--set tracking.project=claims")
