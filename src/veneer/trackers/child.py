"""`python -m veneer.trackers.child NAME`: the process of a tracker. It reads the events of its run from standard input.

A line is `{"run": …}` when the run begins, `{"event": …}`, or `{"outcome": …}`. When the input ends, the run has ended,
perhaps by a kill.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
import threading
import traceback
from collections.abc import Iterable, Sequence

from veneer.enums import TrackerName
from veneer.events import from_json
from veneer.text.strict_json import restored
from veneer.trackers.board import Board, Table, TrackedOutcome, TrackedRun
from veneer.trackers.telling import Teller

LONGEST_REASON = 300
"""The most characters of an error that are shown: a server may answer with a whole page."""


def open_board(name: TrackerName, run: TrackedRun) -> Board:
    """A run in the library of a tracker, which is imported here."""
    match name:
        case TrackerName.TENSORBOARD:
            from veneer.trackers.tensorboard import TensorBoard

            return TensorBoard(run)
        case TrackerName.WANDB:
            from veneer.trackers.wandb import Wandb

            return Wandb(run)
        case TrackerName.MLFLOW:
            from veneer.trackers.mlflow import Mlflow

            return Mlflow(run)
        case TrackerName.TRACKIO:
            from veneer.trackers.trackio import Trackio

            return Trackio(run)


def told(lines: Iterable[str], teller: Teller) -> None:
    """Pass the lines of a run to a board, until they end."""
    for line in lines:
        values = json.loads(line)
        if "run" in values:
            teller.begin(TrackedRun(**values["run"]))
        elif "outcome" in values:
            outcome = restored(values["outcome"])
            tables = {name: Table(one["columns"], one["rows"]) for name, one in outcome["tables"].items()}
            teller.conclude(TrackedOutcome(documents=outcome["documents"], tables=tables))
        else:
            event = from_json(values["event"])
            if event is not None:
                teller.take(event)
    teller.close()


def main(argv: Sequence[str]) -> int:
    """Run the tracker that the command line names."""
    name = TrackerName(argv[0])
    if name is TrackerName.TENSORBOARD:
        # tensorboardX writes in a thread. If that dies (the disk is full), all further events would wait for it.
        threading.excepthook = _end_with_thread
    try:
        told(sys.stdin, Teller(lambda run: open_board(name, run)))
    except Exception as error:  # a library may raise anything
        _say(error)
        return 1
    return 0


def _say(error: BaseException) -> None:
    """Print an error for the run, which shows the last line. That of a message with several lines would say nothing."""
    traceback.print_exception(error)
    reason = textwrap.shorten(f"{type(error).__name__}: {error}", LONGEST_REASON, placeholder=" …")
    print(reason, file=sys.stderr, flush=True)


def _end_with_thread(died: threading.ExceptHookArgs) -> None:
    """End this process with the error of one of its threads."""
    _say(died.exc_value or died.exc_type())
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
