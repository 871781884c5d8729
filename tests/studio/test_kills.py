"""The studio's server is killed at any moment, again and again: no job and no file that it has taken is lost."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from job_workers import wait_for
from studios import CPU
from tiny import rows
from veneer.events import read_events
from veneer.jobs.worker import worker_runs

ROUNDS = 8
STEPS = 3


@contextmanager
def served(folder: Path, model: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A studio in a process of its own."""
    command = [sys.executable, "-m", "veneer", "studio", "--folder", str(folder), "--model", str(model), "--port", "0",
               "--device", "cpu", "--json"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            key = Path(said["key_file"]).read_text().strip()
            with httpx.Client(
                base_url=said["url"], headers={"authorization": f"Bearer {key}"}, trust_env=False, timeout=30
            ) as http:
                yield process, http
        finally:
            process.kill()


def hand_in(http: httpx.Client, number: int, files: dict[str, bytes], jobs: list[str]) -> None:
    """Upload rows and make a job of them; what the studio has answered for is noted."""
    content = "".join(json.dumps(row) + "\n" for row in rows(12, seed=number)).encode()
    sent = http.post("/v1/files", files={"file": ("rows.jsonl", content)}, data={"purpose": "fine-tune"})
    file = sent.raise_for_status().json()["id"]
    files[file] = content
    settings = {**CPU, "train.steps": STEPS, "train.save_every": 1, "train.learning_rate": 0.01}
    body = {"model": "model", "training_file": file, "veneer": {"method": "lora", "settings": settings}}
    jobs.append(http.post("/v1/fine_tuning/jobs", json=body).raise_for_status().json()["id"])


@pytest.mark.slow
def test_a_studio_that_is_killed_at_random_moments_loses_nothing(tmp_path: Path, tiny_model: Path) -> None:
    source, root = random.Random(11), tmp_path / "runs"
    files: dict[str, bytes] = {}
    jobs: list[str] = []
    for number in range(ROUNDS):
        with served(root, tiny_model) as (process, http):
            end = time.monotonic() + source.uniform(0.0, 1.2)
            with suppress(httpx.HTTPError):
                # The kill may come while a file is on its way, a job is being made, or a list is asked for.
                while time.monotonic() < end:
                    hand_in(http, number, files, jobs)
                    http.get("/v1/fine_tuning/jobs").raise_for_status()
                    end = min(end, time.monotonic() + source.uniform(0.0, 0.3))
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert len(jobs) >= ROUNDS // 2
    with served(root, tiny_model) as (process, http):
        listed = {one["id"]: one for one in http.get("/v1/fine_tuning/jobs?limit=100").json()["data"]}
        assert set(jobs) <= listed.keys()
        for file, content in files.items():
            assert http.get(f"/v1/files/{file}/content").content == content

        def states() -> dict[str, str]:
            return {job: http.get(f"/v1/fine_tuning/jobs/{job}").json()["status"] for job in listed}

        wait_for(lambda: set(states().values()) <= {"succeeded", "failed", "cancelled"}, 240)
        assert set(states().values()) == {"succeeded"}, states()
        for job in listed:
            told = [event["step"] for event in read_events(root / job / "events.jsonl") if event["event"] == "StepDone"]
            assert told == list(range(1, STEPS + 1))  # no worker was killed, so that no step was told twice
            assert json.loads((root / job / "job.json").read_text())["status"] == "succeeded"
            assert (root / job / "run.lock").is_file()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert not worker_runs(root, "auto")
    left = [path for path in (root / ".studio" / "files").iterdir() if path.name not in files and path.is_dir()]
    complete = [path for path in left if (path / "file.json").is_file()]
    assert len(complete) <= ROUNDS  # taken, and the answer was lost with the server
