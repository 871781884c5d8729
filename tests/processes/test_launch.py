"""Processes of one machine are started, waited for, and ended together; tests/commands/test_train.py trains in them."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.servers.served import until
from veneer.processes.launch import launch

PROGRAM = """
import os, subprocess, sys, time
folder, number = sys.argv[1:]
if os.environ["RANK"] == "1":
    with open(folder + "/part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(folder + "/part", folder + "/pid")
    os.kill(os.getpid(), int(number))
    sys.exit(0)
while not os.path.exists(folder + "/pid"):
    time.sleep(0.01)
pid = open(folder + "/pid").read()
while subprocess.run(["ps", "-o", "state=", "-p", pid], capture_output=True).stdout[:1] not in (b"T", b""):
    time.sleep(0.01)
sys.exit(3)
"""
"""The second process sends itself a signal. The first fails when the other is stopped, or gone."""

WAITING = """
import os, signal, sys
from pathlib import Path
from veneer.errors import RankLost
from veneer.processes.group import Meeting
from veneer.processes.ranks import launched

signal.signal(signal.SIGTERM, signal.SIG_IGN)
try:
    with Meeting(launched(), 600.0) as group:
        if os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        group.awaited("what rank 0 leaves")
except RankLost as error:
    Path(sys.argv[1], "said").write_text(str(error), "utf-8")
    sys.exit(2)
"""
"""The first process is killed while the second waits for it, which takes signals as lightly as one that makes steps."""

LAUNCHER = """
import sys
from veneer.runtime.signals import end_by_signals
from veneer.processes.launch import launch

end_by_signals(lambda: sys.exit(launch([sys.executable, "-c", *sys.argv[1:]], 2, 60.0, print)))
"""
SLEEPING = """
import os, sys, time
from pathlib import Path
from veneer.runtime.signals import end_by_signals, leave_speaking_to_another

def work():
    if os.environ["RANK"] == "1":
        leave_speaking_to_another()
    Path(sys.argv[1], os.environ["RANK"]).touch()
    time.sleep(60)

end_by_signals(work)
"""


def launched(number: signal.Signals, folder: Path) -> tuple[int, list[str]]:
    """The exit code of both, and what was said for one that could not say it."""
    said: list[str] = []
    code = launch([sys.executable, "-I", "-S", "-c", PROGRAM, str(folder), str(int(number))], 2, 600.0, said.append)
    return code, said


def test_a_process_that_was_stopped_does_not_outlive_one_that_has_failed(tmp_path: Path) -> None:
    assert launched(signal.SIGSTOP, tmp_path) == (3, [])


def test_a_process_that_was_killed_is_named(tmp_path: Path) -> None:
    name = f"rank 1 on {socket.gethostname()} was ended by SIGKILL"
    assert launched(signal.SIGKILL, tmp_path) == (128 + signal.SIGKILL, [name])


def test_processes_are_ended_if_the_system_starts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def one_only(*given: Any, **more: Any) -> subprocess.Popen[bytes]:
        if begun:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        begun.append(start(*given, **more))
        return begun[0]

    monkeypatch.setattr("veneer.processes.launch.subprocess.Popen", one_only)
    try:
        with pytest.raises(BlockingIOError):
            launch([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"], 2, 600.0, print)
        assert begun[0].wait(60) == -signal.SIGKILL
    finally:
        begun[0].kill()
        begun[0].wait()


@pytest.mark.slow
def test_a_signal_to_all_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, SLEEPING, str(tmp_path)], stderr=subprocess.PIPE)
    assert until(lambda: all((tmp_path / rank).exists() for rank in ("0", "1")), 120.0)
    launcher.send_signal(signal.SIGTERM)
    said = launcher.communicate(timeout=120)[1].decode()
    assert launcher.returncode == 128 + signal.SIGTERM
    assert said.count("error: ") == said.count("error: stopped by SIGTERM.") == 1


@pytest.mark.slow
def test_whoever_waits_for_a_process_that_was_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    assert launch([sys.executable, "-c", WAITING, str(tmp_path)], 2, 60.0, print) == 128 + signal.SIGKILL
    said = (tmp_path / "said").read_text("utf-8")
    assert said.startswith(
        f"rank 0 on {socket.gethostname()} has ended: killed by SIGKILL. The last checkpoint is kept"
    )


def test_processes_share_the_cores_that_the_command_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veneer.processes.launch.available_cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    program = "import os, sys; open(sys.argv[1] + '/' + os.environ['RANK'], 'w').write(os.environ['OMP_NUM_THREADS'])"
    assert launch([sys.executable, "-I", "-S", "-c", program, str(tmp_path)], 2, 600.0, print) == 0
    assert [(tmp_path / rank).read_text() for rank in ("0", "1")] == ["3", "3"]
