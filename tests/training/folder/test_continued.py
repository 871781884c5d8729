"""What could not be written is told with the way on; other errors stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from veneer.errors import CheckpointError, OutputError
from veneer.run_folder import RunFolder
from veneer.training.folder.continued import continued_later


@pytest.mark.parametrize(
    ("steps", "then"), [((), "the same command starts again"), ((9, 1_000), "continue after step 1,000 with --resume")]
)
def test_an_output_error_says_how_the_run_goes_on(tmp_path: Path, steps: tuple[int, ...], then: str) -> None:
    folder = RunFolder(tmp_path)
    for step in steps:
        folder.checkpoint(step).mkdir(parents=True)
    with pytest.raises(OutputError) as caught, continued_later(folder):
        raise OutputError("the disk is full. Free space.")
    assert str(caught.value) == f"the disk is full. Free space. Then {then}."
    with pytest.raises(CheckpointError, match=r"^damaged$"), continued_later(folder):
        raise CheckpointError("damaged")
