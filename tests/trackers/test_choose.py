"""A tracker whose library is missing is refused before the run begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny import run_config
from veneer.enums import TrackerName
from veneer.errors import ConfigError
from veneer.events import ignore
from veneer.trackers import choose


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
