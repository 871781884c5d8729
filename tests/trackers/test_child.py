"""Lines of a run become what its board is told, and the end of the input its end."""

from __future__ import annotations

import io
import json
from dataclasses import asdict

import pytest

from helpers.run_folders.tracked_runs import EVENTS, OUTCOME, RUN, FakeBoard
from veneer.events import to_json
from veneer.text.strict_json import to_text, with_reasons
from veneer.trackers import child
from veneer.trackers.board import TrackedRun
from veneer.trackers.child import told
from veneer.trackers.telling import Teller


def test_what_is_told_by_lines_is_what_is_told_at_once() -> None:
    lines = [{"event": with_reasons(to_json(event))} for event in EVENTS]
    lines.insert(1, {"run": asdict(RUN)})
    lines.append({"outcome": with_reasons(asdict(OUTCOME))})
    by_lines, at_once = FakeBoard(), FakeBoard()
    told(map(to_text, lines), Teller(lambda run: by_lines))
    teller = Teller(lambda run: at_once)
    teller.begin(RUN)
    for event in EVENTS:
        teller.take(event)
    teller.conclude(OUTCOME)
    teller.close()
    assert json.dumps(by_lines.told, default=asdict) == json.dumps(at_once.told, default=asdict)


def test_an_event_of_a_later_version_is_passed_over() -> None:
    board = FakeBoard()
    told([json.dumps({"run": asdict(RUN)}), '{"event": {"event": "Unheard"}}'], Teller(lambda run: board))
    assert board.told == [("close", "killed")]


def test_an_error_of_several_lines_is_said_in_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run shows the last line of its tracker's process, and a server's error may end in the end of a page."""

    def answered(name: object, run: TrackedRun) -> FakeBoard:
        raise ConnectionError("code 500 != 200. Body: '<html>\n<p>" + "Out of order. " * 100 + "</p>\n</html>\n'")

    monkeypatch.setattr(child, "open_board", answered)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"run": asdict(RUN)}) + "\n"))
    assert child.main(["mlflow"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("ConnectionError: code 500 != 200. Body: '<html> <p>Out of order.")
    assert len(last) <= child.LONGEST_REASON
