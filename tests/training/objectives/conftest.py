"""Pairs that the tests of all objectives have in common."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.models.tiny import TEMPLATE, write_model, write_rows
from helpers.rows.preference_rows import pair_rows, pairs
from veneer.data.encoded.chat import Example


@pytest.fixture(scope="session")
def answers(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Seven pairs: chosen and rejected in turn."""
    file = write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", pairs(7))
    return pair_rows(tiny_model, file).train


@pytest.fixture(scope="session")
def plain_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model without a template: rows are a prompt and what follows it."""
    path = write_model(tmp_path_factory.mktemp("trl") / "model")
    file = path / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    del settings["chat_template"]
    file.write_text(json.dumps(settings | {"pad_token": "<|endoftext|>"}), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def plain_end(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a template that writes nothing behind the token that ends a turn: TRL would train that."""
    path = write_model(tmp_path_factory.mktemp("trl") / "model")
    file = path / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["chat_template"] = TEMPLATE.replace("<|im_end|>\n", "<|im_end|>")
    file.write_text(json.dumps(settings | {"pad_token": "<|endoftext|>"}), encoding="utf-8")
    return path
