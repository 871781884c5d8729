"""Several processes do what one does, in its order, and none of them outlives the job."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.processes.pooled_jobs import DIES, REFUSES, Squares, ended, started
from veneer.data.encoded.worker_pool import GROUPS_PER_PROCESS, shared_out
from veneer.errors import DataError, Interrupted
from veneer.events import Event, Note


def test_results_come_in_order_and_from_other_processes() -> None:
    found = [one for group in shared_out([[n, n + 1] for n in range(0, 80, 2)], Squares(), 3) for one in group]
    assert [square for square, _ in found] == [number * number for number in range(80)]
    assert os.getpid() not in {process for _, process in found}
    assert len({process for _, process in found}) <= 3


def test_groups_are_taken_as_results_are_asked_for() -> None:
    taken: list[int] = []

    def groups() -> Iterator[list[int]]:
        for number in range(100):
            taken.append(number)
            yield [number]

    results = shared_out(groups(), Squares(), 2)
    next(results)
    assert len(taken) == GROUPS_PER_PROCESS * 2


def test_what_a_process_tells_comes_before_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = started(monkeypatch)
    told: list[Event] = []
    results = shared_out([[1], [9], [2]], Squares(told_from=9), 2, told.append)
    next(results)
    assert told == []
    next(results)
    assert told == [Note(message="at 9")]
    assert len(list(results)) == 1
    assert ended(workers)


def test_an_error_of_the_job_ends_it_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = started(monkeypatch)
    results = shared_out([[1], [REFUSES], [2]], Squares(), 2)
    next(results)
    with pytest.raises(DataError, match=r"^no such number$"):
        list(results)
    assert ended(workers)


def test_a_process_that_is_killed_ends_the_job_and_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = started(monkeypatch)
    said = (
        "a process that squares numbers ended with -9, which often means that the memory was full; square them by hand"
    )
    with pytest.raises(DataError, match=f"^{said}$"):
        list(shared_out([[1], [DIES], *([n] for n in range(50))], Squares(), 2))
    assert ended(workers)
    gc.collect()  # what the failure has left ends without a word on standard error (pytest would fail)


def test_a_process_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(DataError, match=r"a process that squares numbers cannot be started: .*No such file"):
        list(shared_out([[1]], Squares(), 2))


def test_a_stop_ends_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = started(monkeypatch)

    def interrupted() -> Iterator[list[int]]:
        yield [1]
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        list(shared_out(interrupted(), Squares(), 2))
    assert ended(workers)


def test_a_script_without_a_guard_is_not_started_again(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2]
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.append({str(folder)!r})\nprint('begun')\n"
        "from helpers.processes.pooled_jobs import Squares\nfrom veneer.data.encoded.worker_pool import shared_out\n"
        "print([one[0][0] for one in shared_out([[2], [3]], Squares(), 2)])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=300)
    assert (done.stdout, done.stderr) == ("begun\n[4, 9]\n", "")
