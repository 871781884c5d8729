"""What Trackio is told is read back from its database; nothing leaves the machine."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from helpers.run_folders.run_logs import finished, started, step_done
from helpers.run_folders.tracked_runs import LOCK, MEASURES, SAMPLES, nothing_leaves, tell
from helpers.support import needs
from veneer.enums import TrackerName
from veneer.trackers.queue import TrackerFailed

pytestmark = needs("trackio", "pip install 'veneer[trackio]'")


def rows(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a table, as Trackio keeps them."""
    return [dict(zip(values["columns"], row, strict=True)) for row in values["data"]]


def test_trackio_has_settings_numbers_tables_and_documents_and_goes_on_with_its_run(
    tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/else")
    with nothing_leaves(monkeypatch):
        tell(TrackerName.TRACKIO, tmp_path / "run", tiny_model, tiny_data)
        again = [started(4, 3), step_done(4, 1.0), finished(4)]
        tell(TrackerName.TRACKIO, tmp_path / "run", tiny_model, tiny_data, again, end=False)
    found: dict[str, dict[int, Any]] = {}
    with closing(sqlite3.connect(tmp_path / "trackio" / "parcels.db")) as database:
        told = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
        (config,) = database.execute("select config from configs").fetchone()
    for _, step, text in told:
        for name, value in json.loads(text).items():
            found.setdefault(name, {})[step] = value
    name = (tmp_path / "run" / "tracker-id.txt").read_text().strip()
    assert {run for run, _, _ in told} == {f"run-{name}"}
    assert (found["train/loss"][1], found["train/loss"][3], found["train/loss"][4]) == (2.5, 1.25, 1.0)
    assert found["evaluation/rewards/margins"] == {2: 0.5}
    assert json.loads(config)["lora"]["rank"] == 4
    assert found["samples"][2]["_value"] == rows(SAMPLES)
    assert found["evaluation/measures"][3]["_value"] == rows(MEASURES)
    document = found["run.lock"][3]["_value"]
    assert json.loads(document.removeprefix("```json").removesuffix("```")) == LOCK


def test_what_trackio_could_not_write_is_not_lost_in_silence(
    tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trackio itself goes on with a warning that nobody sees, as on a disk that is full."""
    store = tmp_path / "trackio"
    monkeypatch.setenv("TRACKIO_DIR", str(store))
    tell(TrackerName.TRACKIO, tmp_path / "run", tiny_model, tiny_data)
    with closing(sqlite3.connect(store / "parcels.db")) as database:
        database.execute("create trigger full before insert on metrics begin select raise(abort, 'no space'); end")
        database.commit()
    with pytest.raises(TrackerFailed, match="no space"):
        tell(TrackerName.TRACKIO, tmp_path / "run", tiny_model, tiny_data)
