"""A run that was never trained, told to the process of a tracker, with all that leaves the machine counted."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import run_config
from helpers.run_folders.run_logs import finished, started, step_done
from veneer.enums import TrackerName
from veneer.events import Evaluated, Event, Note, SamplesAnswered
from veneer.trackers.board import Table, TrackedOutcome, TrackedRun
from veneer.trackers.process import ProcessTracker, RunId

LOCK = {"seed": 7, "loss": 0.25}
EVENTS: Sequence[Event] = [
    Note(message="chosen: a rate"),
    started(3),
    step_done(1, 2.5),
    step_done(2, float("nan")),
    Evaluated(step=2, loss=1.5, best=True, seconds=0.1, metrics={"rewards/margins": 0.5}),
    SamplesAnswered(
        step=2, prompts=("How | heavy?",), answers=("Two\nkilos",), cut_short=False, seconds=0.1, share=0.01
    ),
    step_done(3, 1.25),
    finished(3),
]
OUTCOME = TrackedOutcome(
    documents={"run.lock": LOCK, "plan.json": {"peak": 100}},
    tables={"evaluation/measures": Table(("measure", "base", "adapter"), [("loss", 2.0, 1.5), ("other", None, 1.0)])},
)
SAMPLES = {"columns": ["step", "prompt", "answer"], "data": [[2, "How | heavy?", "Two\nkilos"]]}
MEASURES = {"columns": ["measure", "base", "adapter"], "data": [["loss", 2.0, 1.5], ["other", None, 1.0]]}


def tell(
    name: TrackerName, folder: Path, model: Path, data: Path, events: Sequence[Event] = EVENTS, *, end: bool = True
) -> None:
    """Tell a tracker of a run whose folder is there; raises what the tracker has failed with."""
    folder.mkdir(exist_ok=True)
    config = run_config(model, data, folder, f"track=[{name.value}]", "tracking.project=parcels")
    tracker = ProcessTracker(name, config, RunId(folder))
    for event in events:
        tracker.take(event)
    if end:
        tracker.take(OUTCOME)
    tracker.close()


@contextmanager
def nothing_leaves(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block every request to another machine would come to a proxy, which counts; none may come."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        for variable in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(variable, address)
            monkeypatch.setenv(variable.upper(), address)
        for variable in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(variable, raising=False)

        def count() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(200))

        thread = threading.Thread(target=count, daemon=True)
        thread.start()
        yield
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    assert asked == []


def table(file: Path) -> dict[str, Any]:
    """The columns and data of a table of wandb's or MLflow's."""
    values = json.loads(file.read_text("utf-8"))
    return {key: values[key] for key in ("columns", "data")}


class FakeBoard:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self.told.append(("numbers", dict(values), step))

    def text(self, name: str, text: str, step: int) -> None:
        self.told.append(("text", name, text, step))

    def table(self, name: str, table: Table, step: int) -> None:
        self.told.append(("table", name, table, step))

    def document(self, name: str, text: str) -> None:
        self.told.append(("document", name, text))

    def close(self, reason: str) -> None:
        self.told.append(("close", reason))


RUN = TrackedRun(id="a", name="run", folder="/", project="p", online=False, settings={}, resumed_at=0)
