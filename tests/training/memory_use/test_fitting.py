"""Beside an error for want of memory stands what fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny import run_config
from veneer.errors import OutOfMemory
from veneer.events import ignore
from veneer.training.memory_use.fitting import fitting, settings_that_fit
from veneer.training.run_inputs import prepare_run


def test_the_settings_that_fit_stand_behind_what_was_said(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    inputs = prepare_run(run_config(tiny_model, tiny_data, tmp_path / "run"), ignore)
    message = r"^too much\. The process had [\d,]+ MB at its peak\. By the plan, "
    with pytest.raises(OutOfMemory, match=message), fitting(inputs):
        raise OutOfMemory("too much.")
    assert "needs a smaller model, or more memory" in settings_that_fit(inputs, had=1e6)
