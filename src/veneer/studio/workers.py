"""Keeps one worker running for each device. A worker that has ended for any reason is started again."""

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

CHECK_WORKERS_SECONDS = 1.0
"""Seconds between two looks."""
END_WORKERS_SECONDS = 120.0
"""The time that workers have to end. A run finishes its current step and saves a checkpoint."""


def all_devices() -> tuple[str, ...]:
    """All GPUs, or without a GPU `auto`: the device that the settings of a job name."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(f"cuda:{number}" for number in range(count)) or ("auto",)


def worker_devices(names: Sequence[str]) -> tuple[str, ...]:
    """The devices that a user names for workers, with the number of the GPU for `cuda`.

    Raises:
        ConfigError: this machine has no such device, or two names mean the same device.
    """
    found: dict[str, str] = {}
    """The name that the user gave, for each device."""
    for name in names:
        device = numbered(str(resolve_device(name, "--worker")))
        if device in found:
            twice = found[device] == name
            both = f"{name} is given twice" if twice else f"{found[device]} and {name} are the same device, {device}"
            raise ConfigError(f"--worker: {both}; a device has one worker: leave one of them out")
        found[device] = name
    return tuple(AUTO if name == AUTO else device for device, name in found.items())


class WorkerKeeper:
    """Keeps the workers of a folder of runs.

    Args:
        root: the folder.
        devices: the devices, each of which gets a worker (`worker_devices`). Empty means `all_devices`.
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
        """Whether a job for a device will be carried out, by one of these workers or by one that was started
        separately."""
        if any(serves(device, wanted) for device in self._devices):
            return True
        return any(worker_runs(self._root, device) for device in (wanted, AUTO))

    def start(self) -> None:
        """Start the workers."""
        self._thread.start()

    def close(self) -> None:
        """End the workers, including those that an earlier studio has started, and wait for them."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        end = time.monotonic() + END_WORKERS_SECONDS
        while time.monotonic() < end and any(worker_runs(self._root, device) for device in self._devices):
            for device in self._devices:
                end_worker(self._root, device)
            time.sleep(0.1)
        for child in self._children:
            # A worker that was just starting has no lock yet.
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, end - time.monotonic()))

    def _keep(self) -> None:
        while True:
            for device in self._devices:
                if not worker_runs(self._root, device):
                    self._start(device)
            self._children = [child for child in self._children if child.poll() is None]
            if self._stop.wait(CHECK_WORKERS_SECONDS):
                return

    def _start(self, device: str) -> None:
        command = [*command_of("veneer.jobs.worker"), str(self._root), device]
        if any(child.args == command and child.poll() is None for child in self._children):
            return  # it is about to take its lock
        with suppress(OSError):
            log = worker_file(self._root, device, "txt").open("ab")
            with log:
                # The worker gets its own session, so that the terminal's Ctrl-C reaches only the studio.
                self._children.append(
                    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
                )
