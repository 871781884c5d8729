"""A tracker whose library is missing is refused before the run begins, and the trackers of a run end together."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from helpers.models.tiny import run_config
from veneer.enums import TrackerName
from veneer.errors import ConfigError
from veneer.events import Event, ignore
from veneer.trackers import choose
from veneer.trackers.queue import Told


def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "track=[tensorboard]")
    monkeypatch.setattr(choose, "installed", lambda name: False)
    config = config.model_copy(update={"track": tuple(TrackerName)})
    named = pytest.raises(ConfigError, match=r"(?s)tensorboardX.*\[track\].*veneer\[wandb\].*\[mlflow\].*\[trackio\]")
    with named, choose.tracked(config.track, config, ignore):
        pass
    with choose.tracked((), config, ignore) as subscribers:
        assert subscribers == []


class Meets:
    """A tracker that ends when all others of its run end too, and fails if they do not within a minute."""

    def __init__(self, place: threading.Barrier):
        self._place = place

    def take(self, told: Told) -> None:
        """Take nothing."""

    def close(self) -> None:
        self._place.wait(60.0)

    def abandon(self) -> None:
        self._place.abort()


def test_the_trackers_of_a_run_end_at_the_same_time(
    tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one ended after the other, several servers that do not answer would cost their seconds several times."""
    place = threading.Barrier(3)
    monkeypatch.setattr(choose, "installed", lambda name: True)
    monkeypatch.setattr(choose, "ProcessTracker", lambda name, config, run_id: Meets(place))
    notes: list[Event] = []
    names = (TrackerName.WANDB, TrackerName.MLFLOW, TrackerName.TRACKIO)
    with choose.tracked(names, run_config(tiny_model, tiny_data, tmp_path / "run"), notes.append) as queues:
        assert len(queues) == 3
    assert notes == []
