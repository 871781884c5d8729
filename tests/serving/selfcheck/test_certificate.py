"""The certificate of a self-check: when it holds, what it says, and how it is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from veneer.errors import OutputError
from veneer.serving.selfcheck.certificate import (
    AnswerDifference,
    AnswersMixed,
    CheckedAdapter,
    Counts,
    IsolationCertificate,
    prove_certificate,
)
from veneer.serving.selfcheck.comparison import Exactness

COUNTS = Counts(
    asked=10, bitwise=6, rounded=2, left=1, refused=1, base_after_adapter=3, reloads=2, evictions=4, preemptions=1,
    shared_tokens=64,
)  # fmt: skip
CERTIFICATE = IsolationCertificate(
    model="m", base_digest="ab", settings={"seed": 0}, machine={"veneer": "0"}, created="2026-01-01T00:00:00+00:00",
    seconds=1.5, adapters=(CheckedAdapter(name="red", digest="cd", nbytes=5, exactness=Exactness.BITWISE),),
    left_out={"bad": "NaN"}, counts=COUNTS, tolerance=1e-5, largest_difference=3e-7, different=0,
)  # fmt: skip


def test_it_holds_where_something_was_compared_and_nothing_differs(tmp_path: Path) -> None:
    assert CERTIFICATE.held
    CERTIFICATE.refuse()
    CERTIFICATE.write(tmp_path / "c.json")
    found = json.loads((tmp_path / "c.json").read_text())
    assert (found["held"], found["counts"]["bitwise"], found["adapters"][0]["exactness"]) == (True, 6, "bitwise")
    text = CERTIFICATE.summary()
    assert "Answers do not mix: 10 questions to m and 1 adapters" in text
    assert "6 bit for bit, 2 within 1e-05 (largest difference 3.0e-07)" in text
    assert "Not checked: bad: NaN" in text


def test_it_replaces_an_earlier_one_and_no_other_file(tmp_path: Path) -> None:
    rows, earlier = tmp_path / "rows.json", tmp_path / "c.json"
    rows.write_text("[]")
    CERTIFICATE.write(earlier)
    prove_certificate(earlier)
    with pytest.raises(OutputError, match=f"{rows} already exists and is not a certificate"):
        prove_certificate(rows)


def test_it_does_not_hold_where_an_answer_differs_or_none_was_compared() -> None:
    nothing = replace(CERTIFICATE, counts=replace(COUNTS, bitwise=0, rounded=0))
    assert not nothing.held
    assert nothing.summary().startswith("NOTHING WAS COMPARED: 10 questions")
    with pytest.raises(AnswersMixed, match="no answer was compared"):
        nothing.refuse()
    difference = AnswerDifference(question=4, adapter=None, problem="other text")
    differs = replace(CERTIFICATE, different=1, differences=(difference,))
    assert not differs.held
    assert "ANSWERS DIFFER: 1" in differs.summary()
    assert "question 4 to the base: other text" in differs.summary()
    with pytest.raises(AnswersMixed) as refused:
        differs.refuse()
    assert refused.value.exit_code == 1
