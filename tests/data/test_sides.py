"""The rows that a run is evaluated on are found again without it."""

from __future__ import annotations

from pathlib import Path

from helpers.models.tiny import write_rows
from helpers.texts import chat_templates as ct
from veneer.config import DataSection
from veneer.data.files.sources import run_files
from veneer.data.rows import load_rows
from veneer.data.sides import evaluation_answers
from veneer.enums import RowKind


def test_the_answers_of_evaluation_are_the_chosen_ones(tmp_path: Path) -> None:
    file = write_rows(
        tmp_path / "pairs.jsonl", [{"prompt": f"Q {n}?", "chosen": f"Answer {n}.", "rejected": "No."} for n in range(8)]
    )
    data = DataSection(file=str(file), held_out=0.25)
    answers = evaluation_answers(data, RowKind.PAIRS, run_files(data))
    held = {example.where for example in load_rows(data, ct.tokenizer("chatml"), kind=RowKind.PAIRS).eval}
    assert {record.where for record in answers} == held
    assert all(str(record.completion).startswith("Answer") for record in answers)
