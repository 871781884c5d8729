"""One command becomes several processes on this machine, with the environment that torchrun would give them.

torchrun does more: several hosts, and starting again what has failed. Its exit code is 1 whatever the reason, and its
report of a failure is a traceback; here the first process that fails says why, and its exit code is the command's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from veneer.signals import deferred, signal_exit_code
from veneer.training.parallel.ranks import variables_of

POLL = 0.05
"""Seconds between two looks at the processes."""
PATIENCE = 30.0
"""Seconds that processes get to end after a signal, before they are killed; torchrun gives as many."""


def launch(command: Sequence[str], devices: int, timeout: float) -> int:
    """Run a command in so many processes, and wait for them.

    Args:
        command: the program and its arguments, as every process gets them.
        devices: the number of processes.
        timeout: seconds after which the processes themselves give up one that does not answer.

    Returns:
        The exit code of the first process that has failed; 0 where none has.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=timeout), wait_for_workers=False)
    threads = max(1, (os.cpu_count() or 1) // devices)
    processes = [
        subprocess.Popen(command, env=variables_of(rank, devices, store.port, threads)) for rank in range(devices)
    ]

    def stop(number: int = signal.SIGTERM) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    with deferred(stop, "stopping all processes after their micro-batch"):
        code = _first_failure(processes, timeout, stop)
        by_signal = signal_exit_code()
    return code if by_signal is None else by_signal


def _first_failure(processes: Sequence[subprocess.Popen[bytes]], timeout: float, stop: Callable[[int], None]) -> int:
    """Wait for all processes; the exit code of the first that has failed. When one has, the others get the time in
    which they find out by themselves, and are then stopped."""
    failed, since = 0, 0.0
    while any(process.poll() is None for process in processes):
        codes = [process.returncode for process in processes if process.returncode]
        if codes and not failed:
            failed, since = codes[0], time.monotonic()
        if failed and time.monotonic() - since > timeout:
            stop(signal.SIGTERM)
        if failed and time.monotonic() - since > timeout + PATIENCE:
            stop(signal.SIGKILL)
        time.sleep(POLL)
    code = failed or next((process.returncode for process in processes if process.returncode), 0)
    return code if code >= 0 else 128 - code


def this_command() -> list[str]:
    """The command line of this process, as one that can be run again."""
    return [sys.executable, "-m", "veneer", *sys.argv[1:]]
