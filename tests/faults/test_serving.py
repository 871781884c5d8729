"""A soak of the server: many clients, some of which vanish, adapters that are reloaded, and canaries that nobody sees:
not another client in its answer, nor whoever reads what the server prints, or the files that it leaves.

How long it takes is `--fault-rounds`: about two seconds each.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from helpers.adapters.peft_folders import write_adapter
from veneer.adapters.adapter import remove
from veneer.assistant.load import open_assistant
from veneer.config import ComputeSection
from veneer.model.decoder import CausalLM

KEY, ADMIN = "k" * 24, "a" * 24
ADAPTERS = ("red", "green", "blue")
CLIENTS = 12
SECONDS = 2.0
"""Of a round."""


@dataclass
class Soak:
    """What the clients of a soak have seen."""

    url: str
    answered: int = 0
    left: int = 0
    reloads: int = 0
    conflicts: int = 0
    problems: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    """By adapter, version and prompt: the answer that was given first. All later ones must be equal."""
    lock: threading.Lock = field(default_factory=threading.Lock)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    model = open_assistant(str(tiny_model), compute=ComputeSection(device="cpu", dtype="float32")).model
    assert isinstance(model, CausalLM)
    for number, name in enumerate(ADAPTERS):
        (folder / name).mkdir()
        remove(model, write_adapter(folder / name, model, rank=2 + number, alpha=8.0 + number))
    return folder


@contextmanager
def server(model: Path, adapters: Path, home: Path) -> Iterator[tuple[str, list[str]]]:
    """A server in a process of its own, in an empty home; its address, and what it prints."""
    for name, key in (("keys", KEY), ("admin", ADMIN)):
        (home / name).write_text(key)
        (home / name).chmod(0o600)
    command = [sys.executable, "-X", "dev", "-W", "ignore", "-m", "veneer", "serve", "--model", str(model)]
    command += ["--name", "base", "--adapters", str(adapters), "--port", "0", "--json", "--device", "cpu"]
    command += ["--dtype", "float32", "--key-file", str(home / "keys"), "--admin-key-file", str(home / "admin")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(home), "TMPDIR": str(home)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        printed: list[str] = []
        url = ""
        for line in process.stdout:
            printed.append(line)
            if line.startswith("{"):
                url = json.loads(line)["url"]
                break
        reading = threading.Thread(target=lambda: printed.extend(process.stdout or ()))
        reading.start()
        yield url, printed
        process.terminate()
        reading.join(60)
        assert process.wait(60) in (143, -15)


def client(soak: Soak, number: int, until: float, seed: int) -> None:
    """Asks until the time is over: prompts with a canary of its own, and prompts that all share."""
    source = random.Random(seed)
    canary = f"canary{number:03}bird"
    with httpx.Client(base_url=soak.url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as http:
        while time.monotonic() < until:
            name = source.choice(("base", *ADAPTERS))
            prompt = source.choice([f"{canary} {source.randrange(3)}", "1: late parcel?", "where is"])
            body = {"model": name, "prompt": prompt, "max_tokens": 8, "temperature": 0}
            if source.random() < 0.2:
                with http.stream("POST", "/v1/completions", json={**body, "max_tokens": 200, "stream": True}) as stream:
                    next(stream.iter_bytes(), None)
                soak.left += 1
                continue
            answer = http.post("/v1/completions", json=body)
            check(soak, canary, prompt, answer)


def check(soak: Soak, canary: str, prompt: str, answer: httpx.Response) -> None:
    with soak.lock:
        if answer.status_code != 200:
            # The adapter's files were exchanged, and it is not loaded anew yet.
            if "changed" not in answer.text:
                soak.problems.append(f"{answer.status_code}: {answer.text}")
            return
        content = answer.json()
        others = set(re.findall(r"canary\d+bird", answer.text)) - {canary}
        if others:
            soak.problems.append(f"the client of {canary} got {others}")
        soak.answered += 1
        key = f"{content['system_fingerprint']} {prompt}"
        text = content["choices"][0]["text"]
        if soak.answers.setdefault(key, text) != text:
            soak.problems.append(f"{key}: {text!r} and {soak.answers[key]!r}")


def reloader(soak: Soak, originals: Path, adapters: Path, until: float, seed: int) -> None:
    """Exchanges the files of adapters, and loads them; sometimes with a generation that is past."""
    source = random.Random(seed)
    with httpx.Client(base_url=soak.url, headers={"authorization": f"Bearer {ADMIN}"}, timeout=60) as http:
        while time.monotonic() < until:
            name, other = source.choice(ADAPTERS), source.choice(ADAPTERS)
            for file in (originals / other).iterdir():
                shutil.copyfile(file, adapters / name / f".{file.name}")
                (adapters / name / f".{file.name}").replace(adapters / name / file.name)
            loaded = http.post("/v1/load_lora_adapter", json={"lora_name": name})
            if loaded.status_code != 200:
                soak.problems.append(f"load: {loaded.status_code} {loaded.text}")
            soak.reloads += 1
            stale = http.post("/v1/load_lora_adapter", json={"lora_name": name, "expected_generation": 1})
            soak.conflicts += stale.status_code == 409
            time.sleep(0.05)


@pytest.mark.repeated
def test_a_server_under_load_mixes_nothing_and_keeps_nothing(
    tiny_model: Path, originals: Path, tmp_path: Path, rounds: int
) -> None:
    adapters, home = tmp_path / "adapters", tmp_path / "home"
    shutil.copytree(originals, adapters)
    home.mkdir()
    with server(tiny_model, adapters, home) as (url, printed):
        soak = Soak(url)
        until = time.monotonic() + SECONDS * (1 + rounds)
        threads = [threading.Thread(target=client, args=(soak, number, until, number)) for number in range(CLIENTS)]
        threads.append(threading.Thread(target=reloader, args=(soak, originals, adapters, until, rounds)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as http:
            assert http.get("/health").status_code == 200
            figures = http.get("/metrics").text
    assert soak.problems == []
    assert min(soak.answered, soak.left, soak.reloads, soak.conflicts) > 0
    assert len(soak.answers) > len(ADAPTERS)
    assert "canary" not in figures
    assert not [line for line in printed if "canary" in line]
    for file in (path for folder in (home, adapters) for path in folder.rglob("*") if path.is_file()):
        assert b"canary" not in file.read_bytes(), file
