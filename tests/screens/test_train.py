"""A run whose reader has gone, or whose screen cannot be written, trains to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from veneer.events import Event, Note
from veneer.screens.json_output import while_read


def test_a_subscriber_that_cannot_write_is_not_called_again() -> None:
    seen: list[Event] = []

    def write(event: Event) -> None:
        seen.append(event)
        if len(seen) == 2:
            raise BrokenPipeError

    tell = while_read(write)
    for number in range(4):
        tell(Note(message=str(number)))
    assert [event for event in seen if isinstance(event, Note)] == [Note(message="0"), Note(message="1")]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "streams", ["2>/dev/full", "2> >(head -n 1 >/dev/null)", "--json | head -n 1", "--json >/dev/full"]
)
def test_a_run_ends_although_nobody_can_be_told_of_it(
    streams: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    command = (
        f"{sys.executable} -m veneer train --model {tiny_model} --data {tiny_data} --output run --method lora "
        f"--steps 12 --batch-size 4 --device cpu {streams}"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()
    last = json.loads((tmp_path / "run" / "events.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["reason"], last["step"]) == ("RunFinished", "complete", 12)
