"""Turns one command into several processes on this machine, with the environment that torchrun would give them.

torchrun does more: it starts processes on several hosts, and restarts what has failed. Its exit code is always 1, and
its report of a failure is a traceback; here the first process that fails says why, and the command returns its exit
code.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from veneer.machine.system import available_cores
from veneer.processes.group import tell_killed
from veneer.processes.ranks import Ranks, variables_of
from veneer.runtime.own_module import command_of
from veneer.runtime.signals import deferred, signal_exit_code, stop_signalled

POLL = 0.05
"""Seconds between two looks at the processes."""
GRACE = 10.0
"""Seconds in which the other processes notice by themselves that one has failed; then they are asked to end."""
PATIENCE = 30.0
"""Seconds that processes get to end after a signal, before they are killed; the same number as torchrun's."""


def launch(command: Sequence[str], devices: int, timeout: float, say: Callable[[str], None]) -> int:
    """Run a command in so many processes, and wait for them.

    Args:
        command: the program and its arguments, as every process gets them.
        devices: the number of processes.
        timeout: seconds after which the processes themselves give up one that does not answer.
        say: called with a message for a process that a signal has ended.

    Returns:
        The exit code of the first process that has failed; 0 if none has.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=timeout), wait_for_workers=False)
    threads = max(1, available_cores() // devices)
    processes: list[subprocess.Popen[bytes]] = []

    def stop() -> None:
        _signal(processes, signal.SIGTERM)

    def killed(rank: int, by: str) -> None:
        ranks = Ranks(rank=rank, world=devices, host=socket.gethostname())
        say(f"{ranks.name} was ended by {by}")
        tell_killed(store, ranks, by)

    with deferred(stop, "stopping all processes after their micro-batch") as heed:
        with ExitStack() as undo:
            # Those that have been started would wait for the others in vain.
            undo.callback(_signal, processes, signal.SIGKILL)
            for rank in range(devices):
                processes.append(subprocess.Popen(command, env=variables_of(rank, devices, store.port, threads)))
            undo.pop_all()
        if stop_signalled():
            stop()  # the signal may have come before the last of them was in the list
        code = _first_failure(processes, timeout, killed)
        by_signal = signal_exit_code()
        if by_signal is not None:
            heed()  # the first process has already said so
    return code if by_signal is None else by_signal


def _first_failure(
    processes: Sequence[subprocess.Popen[bytes]], timeout: float, killed: Callable[[int, str], None]
) -> int:
    """Wait for all processes. The result is the exit code of the first one that has failed. When one fails, the others
    get some time to notice it by themselves, and are then asked to end."""
    failed, since, running = 0, 0.0, True
    while running:
        time.sleep(POLL)
        codes = [process.poll() for process in processes]
        running = None in codes
        if any(codes) and not failed:
            rank, failed, since = next((rank, code, time.monotonic()) for rank, code in enumerate(codes) if code)
            if failed < 0 and signal_exit_code() is None:
                killed(rank, signal.Signals(-failed).name)
        if failed:
            # A process that was stopped should notice it too.
            _signal(processes, signal.SIGCONT)
        if failed and time.monotonic() - since > GRACE:
            _signal(processes, signal.SIGTERM)
        if failed and time.monotonic() - since > timeout + PATIENCE:
            _signal(processes, signal.SIGKILL)
    return failed if failed >= 0 else 128 - failed


def _signal(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    """Send a signal to the processes that have not ended."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def this_command() -> list[str]:
    """The command line of this process, in a form that can be run again."""
    return [*command_of("veneer"), *sys.argv[1:]]
