"""The studio's server is killed at any moment, again and again: no job and no file that it has taken is lost.

Servers are forked from a process that has imported everything. The worker is one that plays runs, so that the kills are
of the server alone and a round takes a second; `tests/jobs/test_worker.py` kills workers and runs.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import httpx
import pytest

from helpers.models.tiny import rows
from helpers.processes.forking import UNSYNCED
from helpers.processes.job_workers import Workers, kill, wait_for, workers
from helpers.run_folders.played_runs import chain
from helpers.run_folders.run_logs import read_events
from veneer.errors import Interrupted
from veneer.jobs.worker import worker_runs

LEAST = 2
"""Kills for each of `--fault-rounds`: `make test-slow` makes 20, `make test-faults` 60."""
STEPS = 3
_FORKER = """
import os, sys
from pathlib import Path
import veneer.studio.app
from veneer.config import ComputeSection
from veneer.errors import Interrupted
from veneer.screens.studio import studio_visibly
from veneer.runtime.signals import end_by_signals
from veneer.studio import checking, plans, studio
from veneer.studio.request import StudioRequest

for line in sys.stdin:
    root, model = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        print(os.getpid(), flush=True)
        compute = ComputeSection(device="cpu", dtype="float32")
        request = StudioRequest(folder=Path(root), models=(model,), port=0, compute=compute)
        try:
            end_by_signals(lambda: studio_visibly(request, as_json=True))
        except Interrupted as error:
            os._exit(error.exit_code)
    _, ended = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(ended), flush=True)
"""


class Servers:
    """Starts studios, one after another."""

    def __init__(self, root: Path, model: Path):
        self._line = f"{root}\t{model}\n"
        self._forker = subprocess.Popen(
            [sys.executable, "-c", UNSYNCED + _FORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    @property
    def _said(self) -> IO[str]:
        assert self._forker.stdout is not None
        return self._forker.stdout

    @contextmanager
    def served(self) -> Iterator[tuple[int, httpx.Client]]:
        """A studio's process, and a client of it. The process is killed in the end, where it is still there."""
        assert self._forker.stdin is not None
        self._forker.stdin.write(self._line)
        self._forker.stdin.flush()
        pid, told = int(self._said.readline()), json.loads(self._said.readline())
        key = Path(told["key_file"]).read_text().strip()
        headers = {"authorization": f"Bearer {key}"}
        with httpx.Client(base_url=told["url"], headers=headers, trust_env=False, timeout=30) as http:
            try:
                yield pid, http
            finally:
                kill(pid)

    def ended(self) -> int:
        """The exit code of the studio that was served last, once it has ended."""
        return int(self._said.readline())

    def close(self) -> None:
        self._forker.kill()
        self._forker.wait()
        for pipe in (self._forker.stdin, self._forker.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def servers(tmp_path: Path, tiny_model: Path) -> Iterator[Servers]:
    found = Servers(tmp_path / "runs", tiny_model)
    yield found
    found.close()


@pytest.fixture
def played() -> Iterator[Workers]:
    with workers() as found:
        yield found


def hand_in(http: httpx.Client, number: int, files: dict[str, bytes], jobs: list[str]) -> None:
    """Upload rows and make a job of them; what the studio has answered for is noted."""
    content = "".join(json.dumps(row) + "\n" for row in rows(12, seed=number)).encode()
    sent = http.post("/v1/files", files={"file": ("rows.jsonl", content)}, data={"purpose": "fine-tune"})
    file = sent.raise_for_status().json()["id"]
    files[file] = content
    settings = {"compute.device": "cpu", "compute.threads": 1, "lora.rank": 4, "train.steps": STEPS}
    body = {"model": "model", "training_file": file, "veneer": {"method": "lora", "settings": settings}}
    jobs.append(http.post("/v1/fine_tuning/jobs", json=body).raise_for_status().json()["id"])


@pytest.mark.slow
@pytest.mark.repeated
def test_a_studio_that_is_killed_at_random_moments_loses_nothing(
    tmp_path: Path, played: Workers, rounds: int, servers: Servers
) -> None:
    source, root = random.Random(11), tmp_path / "runs"
    kills = LEAST * rounds
    files: dict[str, bytes] = {}
    jobs: list[str] = []
    played.start(root)
    wait_for(lambda: worker_runs(root, "auto"))  # so that no studio starts another one
    for number in range(kills):
        with servers.served() as (process, http):
            end = time.monotonic() + source.uniform(0.0, 0.8)
            with suppress(httpx.HTTPError):
                # The kill may come while a file is on its way, a job is being made, or a list is asked for.
                while time.monotonic() < end:
                    hand_in(http, number, files, jobs)
                    http.get("/v1/fine_tuning/jobs").raise_for_status()
                    end = min(end, time.monotonic() + source.uniform(0.0, 0.3))
            kill(process)
        assert servers.ended() == -signal.SIGKILL
    assert len(jobs) >= kills // 2
    with servers.served() as (process, http):
        listed = {one["id"]: one for one in http.get("/v1/fine_tuning/jobs?limit=1000").json()["data"]}
        assert set(jobs) <= listed.keys()
        for file, content in files.items():
            assert http.get(f"/v1/files/{file}/content").content == content

        def states() -> set[str]:
            return {one["status"] for one in http.get("/v1/fine_tuning/jobs?limit=1000").json()["data"]}

        wait_for(lambda: states() <= {"succeeded", "failed", "cancelled"}, 60 + kills)
        assert states() == {"succeeded"}
        for job in listed:
            told = [event["step"] for event in read_events(root / job / "events.jsonl") if event["event"] == "StepDone"]
            assert told == list(range(1, STEPS + 1))  # no worker was killed, so that no step was told twice
            assert (root / job / "adapter.txt").read_text() == chain(STEPS)
            assert json.loads((root / job / "job.json").read_text())["status"] == "succeeded"
            assert (root / job / "run.lock").is_file()
        kill(process, signal.SIGTERM)
        assert servers.ended() == Interrupted.exit_code
    assert not worker_runs(root, "auto")
    left = [path for path in (root / ".studio" / "files").iterdir() if path.name not in files and path.is_dir()]
    complete = [path for path in left if (path / "file.json").is_file()]
    assert len(complete) <= kills  # taken, and the answer was lost with the server
