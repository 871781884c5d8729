"""`--json` prints JSON that every parser reads, and of most verbs the result alone."""

from __future__ import annotations

import json
import math

import pytest

from veneer.events import Note, Result, RunEvent, StepDone, from_json
from veneer.screens.json_output import print_event, print_result


def test_every_event_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_event(Note(message="a\nb"))
    print_event(RunEvent(run="r", event=Note(message="c")))
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["a\nb", "c"]
    assert json.loads(lines[1])["run"] == "r"


def test_a_result_is_printed_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(Note(message="not this"))
    print_result(Result(verb="evaluate", values={"rows": 3}))
    assert json.loads(capsys.readouterr().out) == {"rows": 3}


def test_numbers_that_json_does_not_have_are_null_beside_what_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(name: str) -> float:
        raise AssertionError(name)

    print_result(Result(verb="verify", values={"gap": math.nan, "all": [(math.inf, 1.5)]}))
    assert json.loads(capsys.readouterr().out, parse_constant=refuse) == {
        "gap": None,
        "all": [[None, 1.5]],
        "not_finite": {"gap": "nan", "all[0][0]": "inf"},
    }
    infinite = StepDone(
        step=1, epoch=1.0, loss=-math.inf, grad_norm=1.0, learning_rate=1.0, tokens=1, supervised=1, seconds=1.0,
        memory_mb=1.0,
    )  # fmt: skip
    print_event(infinite)
    printed = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert printed["loss"] is None
    assert printed["not_finite"] == {"loss": "-inf"}
    assert from_json(printed) == infinite
