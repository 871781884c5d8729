"""What Weights & Biases is told offline is read back from its files; nothing leaves the machine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from helpers.run_folders.run_logs import finished, started, step_done
from helpers.run_folders.tracked_runs import EVENTS, LOCK, MEASURES, SAMPLES, nothing_leaves, table, tell
from helpers.support import needs
from veneer.enums import TrackerName

pytestmark = needs("wandb", "pip install 'veneer[wandb]'")


def records(file: Path) -> list[Any]:
    """The records of wandb's file: seven bytes of a header, then LevelDB's log of blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, found, part = file.read_bytes(), 7, [], b""
    while at + 7 <= len(data):
        left = 32_768 - at % 32_768
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(part))
            part = b""
    return found


def test_wandb_has_settings_numbers_tables_and_documents(
    tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nothing_leaves(monkeypatch):
        tell(TrackerName.WANDB, tmp_path / "run", tiny_model, tiny_data)
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    name = (tmp_path / "run" / "tracker-id.txt").read_text().strip()
    told = records(folder / f"run-{name}.wandb")
    run = next(one.run for one in told if one.HasField("run"))
    assert (run.project, run.display_name, run.run_id) == ("parcels", "run", name)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["lora"]["rank"] == 4
    numbers: dict[str, list[float]] = {}
    for one in told:
        if one.HasField("history"):
            for item in one.history.item:
                key = item.key or ".".join(item.nested_key)
                numbers.setdefault(key, []).append(json.loads(item.value_json))
    assert numbers["train/loss"][::2] == [2.5, 1.25]
    assert math.isnan(float(numbers["train/loss"][1]))
    assert numbers["evaluation/rewards/margins"] == [0.5]
    assert {*numbers["_step"]} >= {1, 2, 3}
    tables = folder / "files" / "media" / "table"
    assert table(next(tables.glob("samples_*"))) == SAMPLES
    assert table(next((tables / "evaluation").glob("measures_*"))) == MEASURES
    assert [0, "note", "chosen: a rate"] in table(next(tables.glob("log_*")))["data"]
    assert json.loads((folder / "files" / "run.lock").read_text()) == LOCK
    assert [one.exit.exit_code for one in told if one.HasField("exit")] == [0]


@pytest.mark.slow
def test_a_run_that_is_killed_or_gone_on_with_keeps_its_id(tmp_path: Path, tiny_model: Path, tiny_data: Path) -> None:
    tell(TrackerName.WANDB, tmp_path / "run", tiny_model, tiny_data, EVENTS[:3], end=False)
    again = [started(3, 1), step_done(2), step_done(3), finished(3)]
    tell(TrackerName.WANDB, tmp_path / "run", tiny_model, tiny_data, again, end=False)
    folders = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1
    codes = [
        one.exit.exit_code
        for folder in folders
        for file in folder.glob("*.wandb")
        for one in records(file)
        if one.HasField("exit")
    ]
    assert sorted(codes) == [0, 1]
