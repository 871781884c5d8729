from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from veneer.errors import ModelError, OutputError
from veneer.exports.certificate import Certificate, Threshold
from veneer.exports.measure import Loss
from veneer.exports.merge import MergeSummary
from veneer.exports.record import RECORD_FILE, ExportRecord, LossReport, export_json

LOSS = Loss(1.5, 0.01, -0.02, 0.04)
PARITY = Certificate(
    to="merged", format="float32", prompts=2, prompts_from="rows", new_tokens=16,
    threshold=Threshold(1e-3, 1e-4, 0.0), tensors=None, readers=(),
)  # fmt: skip


def record() -> ExportRecord:
    measured = LossReport("rows.jsonl", 4, 2.0, 1.4, {"original": LOSS, "dequantised": LOSS})
    return ExportRecord(
        "owner/base", "adapter", "out", "merged", "float32", "float32", merged_into="original",
        written=MergeSummary(14, 20, tied=True), measured=measured, parity=PARITY, notes=["a note"],
    )  # fmt: skip


def test_the_file_has_everything_but_the_certificate(tmp_path: Path) -> None:
    record().write(tmp_path)
    values = export_json(tmp_path / RECORD_FILE)
    everything = json.loads(json.dumps(record().to_json()))
    assert everything.pop("parity")["passed"] is True
    assert values == everything
    assert values["written"] == {"changed": 14, "tensors": 20, "tied": True}
    assert values["measured"]["merged"]["original"]["low"] == -0.02


def test_an_interval_without_ends_can_be_written(tmp_path: Path) -> None:
    one_row = replace(LOSS, low=-math.inf, high=math.inf)
    found = replace(record(), measured=LossReport("rows.jsonl", 1, 2.0, 1.4, {"original": one_row}))
    found.write(tmp_path)
    values = export_json(tmp_path / RECORD_FILE)
    assert values["measured"]["merged"]["original"]["low"] is None
    assert values["not_finite"]["measured.merged.original.low"] == "-inf"


def test_a_record_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="absent"):
        record().write(tmp_path / "absent")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "give the folder that `veneer export` made"),
        (b"{", "is damaged"),
        (b"\xff", "is damaged"),
        (b"1" * 5000, "is damaged"),
        (b"[" * 10**5, "is damaged"),
        (b"[1]", "it holds a list"),
    ],
)
def test_a_file_that_is_no_record_is_refused(content: bytes | None, reason: str, tmp_path: Path) -> None:
    file = tmp_path / RECORD_FILE
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        export_json(file)
    assert str(file) in str(caught.value)
    assert reason in str(caught.value)


def test_a_notebook_shows_what_was_exported_and_what_came_of_it() -> None:
    shown = record()._repr_html_()
    for said in ("owner/base", "merged", "a note", "2 prompts: passed"):
        assert said in shown
