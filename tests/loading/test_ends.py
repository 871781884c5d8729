"""Ends of answers that no token has are told of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from veneer.assistant.load import open_assistant
from veneer.backends.describe import describe_model
from veneer.config import ComputeSection
from veneer.enums import Backend
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.ends import end_notes


@pytest.mark.parametrize(
    ("value", "named"),
    [(None, None), (2, None), ([1, 99], None), (100, "100"), (-1, "-1"), ([2, 99_999, -3], "99999, -3")],
)
def test_only_ids_outside_of_the_vocabulary_are_told_of(
    value: Any, named: str | None, tiny_model: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": value}), encoding="utf-8")
    notes = end_notes(open_checkpoint(base), 100)
    assert [f": {named} can never be produced" in note for note in notes] == [True] * (named is not None)


@pytest.mark.parametrize("backend", [Backend.VENEER, Backend.HF])
def test_whoever_asks_or_plans_is_told(backend: Backend, tiny_model: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    (base / "generation_config.json").write_text('{"eos_token_id": 99999}', encoding="utf-8")
    note = describe_model(open_checkpoint(base), backend).notes[-1]
    assistant = open_assistant(str(base), compute=ComputeSection(device="cpu", threads=1), backend=backend)
    assert assistant.warnings == (note,)
    assert "99999 can never be produced" in note
