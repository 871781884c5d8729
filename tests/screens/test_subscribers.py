"""The terminal is told of everything, and standard output of the result alone, where JSON is asked for."""

from __future__ import annotations

import json

import pytest

from veneer.events import Note, Result
from veneer.screens.subscribers import subscriber_of


@pytest.mark.parametrize("as_json", [False, True])
def test_the_terminal_hears_of_everything_and_json_is_the_result(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with subscriber_of(as_json=as_json) as emit:
        for event in (Note(message="rows are left out"), Result(verb="evaluate", values={"rows": 3})):
            emit(event)
    out, err = capsys.readouterr()
    assert err == "rows are left out\n"
    assert (json.loads(out) if as_json else out) == ({"rows": 3} if as_json else "")
