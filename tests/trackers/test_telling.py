"""Each event becomes the numbers, texts and tables that it holds, in order; what comes early waits."""

from __future__ import annotations

from helpers.run_folders.run_logs import finished, started, step_done
from helpers.run_folders.tracked_runs import EVENTS, OUTCOME, RUN, FakeBoard
from veneer.events import Note
from veneer.trackers.telling import STEP, Teller


def test_a_board_is_told_of_everything_in_order() -> None:
    board = FakeBoard()
    teller = Teller(lambda run: board)
    for event in EVENTS:
        teller.take(event)
        if event == EVENTS[1]:
            teller.begin(RUN)
    teller.conclude(OUTCOME)
    teller.close()
    assert board.told[0] == ("text", "note", "chosen: a rate", 0)
    first = board.told[1]
    assert first[1] == {
        **{f"train/{name}": float(getattr(EVENTS[2], name)) for name in STEP},
        "train/tokens_per_second": 200.0,
    }
    assert [one[2] for one in board.told if one[0] == "numbers"] == [1, 2, 2, 3]
    assert ("numbers", {"evaluation/loss": 1.5, "evaluation/rewards/margins": 0.5}, 2) in board.told
    kinds = [one[0] for one in board.told]
    assert kinds[-5:] == ["text", "document", "document", "table", "close"]
    assert board.told[-1] == ("close", "complete")


def test_objectives_have_their_metrics_and_a_run_without_an_end_was_killed() -> None:
    board = FakeBoard()
    teller = Teller(lambda run: board)
    teller.begin(RUN)
    teller.take(Note(message="a"))
    teller.close()
    assert board.told == [("text", "note", "a", 0), ("close", "killed")]
    teller = Teller(lambda run: board)
    for event in (started(1), step_done(1), finished(1)):
        teller.take(event)
    teller.close()  # it never began, and there is no board to close
    assert len(board.told) == 2
