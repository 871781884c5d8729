"""`veneer serve`: it says where it serves, answers, and ends in good order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from helpers.processes.invoking import FLOAT32, refused


def serve(model: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "veneer", "serve", "--model", str(model), "--port", "0", "--json", *FLOAT32, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_it_serves_until_sigterm_and_answers_what_is_under_way(tiny_model: Path) -> None:
    with serve(tiny_model, "--name", "base") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        started = json.loads(process.stdout.readline())
        assert started["models"] == ["base"]
        url = started["url"]
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "base"
        answers: list[httpx.Response] = []
        content = {"model": "base", "prompt": "The", "max_tokens": 300, "ignore_eos": True, "stream": True}

        def ask() -> None:
            with httpx.stream("POST", f"{url}/v1/completions", json=content, timeout=60) as answer:
                for number, _ in enumerate(answer.iter_lines()):
                    if number == 2:
                        process.send_signal(signal.SIGTERM)
                answers.append(answer)

        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(60)
        code = process.wait(60)
        told = process.stderr.read()
    assert answers[0].status_code == 200
    assert code == 128 + signal.SIGTERM
    assert "all running requests were answered" in told
    assert "Traceback" not in told
    assert "error" not in told, "it is how a server is stopped, and supervisors look for the word"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--host", "0.0.0.0"), "--key-file"),
        (("--key-file", "no-such-file"), "cannot be read"),
        (("--port", "99999"), "99999"),
    ],
)
def test_what_would_be_open_or_cannot_be_is_refused_before_the_model_is_loaded(
    tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    assert message in refused("serve", "--model", tmp_path / "no-model", *more)
