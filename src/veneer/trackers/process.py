"""A tracker in its own process: its library prints, waits, and uses threads and memory there, and not in the run.

A process that does not end is killed. If a run is killed, its tracker's input ends, and the tracker then ends normally.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from veneer.config import RunConfig
from veneer.enums import TrackerName, TrackingMode
from veneer.events import RunStarted, to_json
from veneer.io.files import write_text
from veneer.run_folder import RunFolder
from veneer.runtime.own_module import command_of
from veneer.text.strict_json import to_text, with_reasons
from veneer.trackers.board import TrackedOutcome, TrackedRun
from veneer.trackers.queue import Told, TrackerFailed

ID_FILE = "tracker-id.txt"
"""The file with the id by which trackers recognise a resumed run."""
TAIL = 4_000
"""The bytes at the end of a process's output that are searched for its error."""
OFFLINE: Mapping[TrackerName, Mapping[str, str | None]] = {
    TrackerName.WANDB: {"WANDB_ERROR_REPORTING": "false"},
    TrackerName.MLFLOW: {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_FILE_STORE": "true"},
    TrackerName.TRACKIO: {"TRACKIO_SPACE_ID": None, "TRACKIO_SERVER_URL": None, "TRACKIO_WEBHOOK_URL": None},
}
"""Variables that keep a library on this machine: the environment of its process is the only switch for that. None
removes a variable."""


class RunId:
    """The id of a run, which its trackers share: made when the run begins, and read when it is resumed."""

    def __init__(self, folder: Path):
        self._file = folder / ID_FILE
        self._found: str | None = None
        self._lock = threading.Lock()

    def of(self, event: RunStarted) -> str:
        """The id of the run that the event starts.

        Raises:
            OutputError: the id cannot be written.
        """
        with self._lock:
            if self._found is None and event.resumed_at and self._file.is_file():
                self._found = self._file.read_text(encoding="ascii").strip()
            if self._found is None:
                self._found = secrets.token_hex(4)
                write_text(self._file, self._found + "\n")
            return self._found


class ProcessTracker:
    """Passes the events of a run to the process of a tracker (`veneer.trackers.queue.Tracker`).

    Args:
        name: the tracker.
        config: the run.
        run_id: the run's id.
        command: a command that is started instead of the tracker's own process.
    """

    def __init__(self, name: TrackerName, config: RunConfig, run_id: RunId, command: Sequence[str] = ()):
        self._config, self._run_id = config, run_id
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115, as long as the process
        given = OFFLINE.get(name, {}) if config.tracking.mode is TrackingMode.OFFLINE else {}
        environment = {key: value for key, value in {**os.environ, **given}.items() if value is not None}
        # A folder `wandb/` or a file `mlflow.py` in the working folder is not the library.
        self._child = subprocess.Popen(
            [*(command or command_of("veneer.trackers.child")), name.value],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._printed,
            env=environment,
            start_new_session=True,
        )

    def take(self, told: Told) -> None:
        """See `Tracker.take`."""
        if isinstance(told, TrackedOutcome):
            self._write({"outcome": with_reasons(asdict(told))})
            return
        # A run that was complete before is in the tracker already: without its beginning, the tracker writes nothing.
        if isinstance(told, RunStarted) and not told.complete_before:
            self._write({"run": asdict(self._run(told))})
        self._write({"event": with_reasons(to_json(told))})

    def close(self) -> None:
        """See `Tracker.close`."""
        code, said = self._ended()
        if code != 0:
            raise TrackerFailed(said)

    def abandon(self) -> None:
        """See `Tracker.abandon`."""
        self._child.kill()

    def _run(self, event: RunStarted) -> TrackedRun:
        folder = RunFolder(Path(self._config.output))
        resolved = folder.config() or self._config
        return TrackedRun(
            id=self._run_id.of(event),
            name=folder.path.resolve().name,
            folder=str(folder.path.resolve()),
            project=self._config.tracking.project,
            online=self._config.tracking.mode is TrackingMode.ONLINE,
            settings=resolved.model_dump(mode="json"),
            resumed_at=event.resumed_at,
        )

    def _write(self, values: Mapping[str, Any]) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(to_text(values).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise TrackerFailed(self._ended()[1]) from None

    def _ended(self) -> tuple[int, str]:
        """Wait for the end of the process. The result is its exit code and its last output."""
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):  # it has already ended, and its exit code says how
            self._child.stdin.close()
        code = self._child.wait()
        with self._printed as printed:
            printed.seek(max(0, printed.seek(0, os.SEEK_END) - TAIL))
            lines = printed.read().decode("utf-8", errors="replace").strip().splitlines()
        return code, lines[-1] if lines else f"its process ended with code {code}"
