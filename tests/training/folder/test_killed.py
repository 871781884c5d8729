"""A run whose process was killed says so when it is gone on with, with the memory that it had."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from helpers.models.tiny import CommandLine, run_config
from veneer.config import to_yaml
from veneer.events import Event, Level, Note
from veneer.machine.system import MemoryKills
from veneer.training.folder import killed
from veneer.training.folder.killed import Killed
from veneer.training.run import train

STARTED: dict[str, object] = {"event": "RunStarted"}


def step(number: int, memory: float) -> dict[str, object]:
    return {"event": "StepDone", "step": number, "memory_mb": memory}


def counted(kills: int, where: str = "group") -> str:
    return json.dumps({"memory_kills": {"where": where, "count": kills}, "pid": 1})


@pytest.mark.parametrize(
    ("left", "now", "events", "expected"),
    [
        ("", 9, [STARTED, step(1, 5.0)], None),
        (counted(3), 4, [STARTED, step(1, 5.0), STARTED, step(2, 6.0)], Killed(2, 6.0, by_kernel=True)),
        (counted(3), 3, [STARTED, step(1, 5.0), STARTED], Killed(0, None, by_kernel=False)),
        (counted(3, "another"), 4, [STARTED, step(1, 5.0)], Killed(1, 5.0, by_kernel=False)),
        (counted(3), None, [STARTED, step(1, 5.0)], Killed(1, 5.0, by_kernel=False)),
        ('{"memory_kills": 3}', 4, [STARTED, step(1, 5.0)], Killed(1, 5.0, by_kernel=False)),  # of a version before
        ('{"memory_kills": null}', None, [], Killed(None, None, by_kernel=False)),
        ("torn", 3, [STARTED, step(7, 8.0)], Killed(7, 8.0, by_kernel=False)),
        ("[" * 100_000, 3, [STARTED], Killed(0, None, by_kernel=False)),
        ("[1]", 3, [STARTED, step(7, 8.0)], Killed(7, 8.0, by_kernel=False)),
    ],
)  # fmt: skip
def test_what_became_of_the_process_before(
    left: str, now: int | None, events: list[dict[str, object]], expected: Killed | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(killed, "memory_kills", lambda: None if now is None else MemoryKills("group", now))
    assert killed.killed(left, events) == expected
    if expected is not None and expected.by_kernel:
        assert "the kernel killed this run after step 2, when it had 6 MB" in expected.message()
    if expected is not None and not events:
        assert expected.message().startswith("the process of this run was killed, or the machine went down.")


def test_a_killed_run_is_reported_when_it_is_gone_on_with_and_only_then(
    command_line: CommandLine, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    config = run_config(tiny_model, tiny_data, output, "train.steps=30", "train.save_every=1")
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(config))
    step = output / "checkpoints" / "step-000002" / "manifest.json"
    ended = command_line.run("train", "--config", str(file), when=step)
    assert ended.code == -signal.SIGKILL
    assert json.loads((output / ".lock").read_text()).keys() == {"memory_kills", "pid"}
    shutil.copytree(output, tmp_path / "kept")
    said: list[Event] = []
    train(config, resume=True, emit=said.append)
    (warning,) = [note.message for note in said if isinstance(note, Note) and note.level is Level.WARNING]
    assert "the process of this run was killed after step" in warning
    assert " MB, or the machine went down" in warning
    assert any(
        note.message.startswith("If memory was the cause: By the plan") for note in said if isinstance(note, Note)
    )
    assert (output / ".lock").read_text() == ""
    again: list[Event] = []
    train(config, resume=True, emit=again.append)
    assert [note for note in again if isinstance(note, Note) and note.level is Level.WARNING] == []
