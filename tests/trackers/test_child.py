"""Lines of a run become what its board is told, and the end of the input its end."""

from __future__ import annotations

import json
from dataclasses import asdict

from helpers.run_folders.tracked_runs import EVENTS, OUTCOME, RUN, FakeBoard
from veneer.events import to_json
from veneer.text.strict_json import to_text, with_reasons
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
