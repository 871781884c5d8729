"""Bases are found by what the studio knows of them, from whichever folder it is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from run_logs import write_run
from veneer.serving.keys import Keys
from veneer.studio.request import StudioRequest
from veneer.studio.sessions import Sessions
from veneer.studio.studio import Studio, make_studio


def resting(root: Path, *models: str) -> Studio:
    """A studio that has looked at its folder, and does nothing."""
    found = make_studio(StudioRequest(folder=root, models=models), Sessions(Keys(())))
    found.watcher.look()
    return found


def test_models_that_are_named_by_relative_paths_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("named", "trained"):
        (tmp_path / "models" / name).mkdir(parents=True)
    run = write_run(tmp_path / "runs" / "run", config="model: models/trained\nmethod: lora\n")
    (run / "adapter_config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    studio = resting(tmp_path / "runs", "models/named", "owner/hub-id")
    named, trained = (str(tmp_path / "models" / name) for name in ("named", "trained"))
    assert studio.bases.all() == {"named": named, "owner/hub-id": "owner/hub-id", "trained": trained}
    assert [base for base, _ in studio.chat.adapters().values()] == [trained]
