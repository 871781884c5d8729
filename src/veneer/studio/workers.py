"""Keeps a worker for each device: one that has ended, whoever ended it, is started again."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from veneer.errors import ConfigError
from veneer.jobs.device import AUTO, numbered, serves
from veneer.jobs.worker import end_worker, worker_file, worker_runs
from veneer.machine.hardware import resolve_device
from veneer.runtime.own_module import command_of

SECONDS = 1.0
"""Seconds between two looks."""
END_SECONDS = 120.0
"""Seconds that workers may take to end: a run makes its step under way, and keeps a checkpoint."""


def all_devices() -> tuple[str, ...]:
    """Every GPU, or where there is none, what the settings of a job say."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(f"cuda:{number}" for number in range(count)) or ("auto",)


def worker_devices(names: Sequence[str]) -> tuple[str, ...]:
    """The devices of the workers that a user names, `cuda` by its number.

    Raises:
        ConfigError: this machine has no such device, or two workers would have one.
    """
    found: dict[str, str] = {}
    """The name that was given to each device."""
    for name in names:
        device = numbered(str(resolve_device(name, "--worker")))
        if device in found:
            twice = found[device] == name
            both = f"{name} is given twice" if twice else f"{found[device]} and {name} are one device, {device}"
            raise ConfigError(f"--worker: {both}; a device has one worker: leave one of them out")
        found[device] = name
    return tuple(AUTO if name == AUTO else device for device, name in found.items())


class WorkerKeeper:
    """Keeps the workers of a folder of runs.

    Args:
        root: the folder.
        devices: a worker for each (`worker_devices`); empty for `all_devices`.
    """

    def __init__(self, root: Path, devices: tuple[str, ...] = ()):
        self._root, self._devices = root, devices or all_devices()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="veneer-workers", daemon=True)
        self._children: list[subprocess.Popen[bytes]] = []

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that have a worker."""
        return self._devices

    def serve(self, wanted: str) -> bool:
        """Whether a job of a device will be carried out: by a worker of these, or one that was started beside them."""
        if any(serves(device, wanted) for device in self._devices):
            return True
        return any(worker_runs(self._root, device) for device in (wanted, AUTO))

    def start(self) -> None:
        """Start the workers."""
        self._thread.start()

    def close(self) -> None:
        """End the workers, those too that an earlier studio has started, and wait for them."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        end = time.monotonic() + END_SECONDS
        while time.monotonic() < end and any(worker_runs(self._root, device) for device in self._devices):
            for device in self._devices:
                end_worker(self._root, device)
            time.sleep(0.1)
        for child in self._children:
            # One that was about to begin has no lock yet.
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, end - time.monotonic()))

    def _keep(self) -> None:
        while True:
            for device in self._devices:
                if not worker_runs(self._root, device):
                    self._start(device)
            self._children = [child for child in self._children if child.poll() is None]
            if self._stop.wait(SECONDS):
                return

    def _start(self, device: str) -> None:
        command = [*command_of("veneer.jobs.worker"), str(self._root), device]
        if any(child.args == command and child.poll() is None for child in self._children):
            return  # it is about to take its lock
        with suppress(OSError):
            log = worker_file(self._root, device, "txt").open("ab")
            with log:
                # In a session of its own: the terminal's Ctrl-C is the studio's business.
                self._children.append(
                    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
                )
