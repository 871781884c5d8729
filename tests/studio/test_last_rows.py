"""The rows of the last plan are kept for the next one."""

from __future__ import annotations

from pathlib import Path

import pytest

from veneer.config import DataSection
from veneer.enums import RowKind
from veneer.events import Event, Note
from veneer.io.checkpoint import open_checkpoint
from veneer.studio import last_rows as module
from veneer.studio.last_rows import LastRows


def test_rows_of_a_form_are_read_once_until_they_or_their_settings_change(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"
    row = '{"prompt": "a", "completion": "b"}\n'
    file.write_text(row * 2)
    read: list[DataSection] = []
    load = module.load_rows

    def counted(data: DataSection, *rest: object) -> object:
        read.append(data)
        return load(data, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "load_rows", counted)
    rows, tokenizer, data = LastRows(), open_checkpoint(str(tiny_model)).tokenizer(), DataSection(file=str(file))
    first: list[Event] = []
    again: list[Event] = []
    made = rows.load(data, tokenizer, first.append, RowKind.ANSWERS)
    assert rows.load(data, tokenizer, again.append, RowKind.ANSWERS) is made
    assert len(read) == 1
    assert [one for one in first if isinstance(one, Note)] == again != []
    assert rows.load(data.model_copy(update={"max_length": 64}), tokenizer, again.append, RowKind.ANSWERS).count == 2
    file.write_text(row * 3)
    assert rows.load(data, tokenizer, again.append, RowKind.ANSWERS).count == 3
    assert len(read) == 3
