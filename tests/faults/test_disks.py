"""A disk that is full or read-only is an error that names the folder, and what was there stays."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import CommandLine, run_config, tree
from helpers.training.training_runs import options, weights
from veneer.config import to_yaml
from veneer.training.folder.checkpoint import verify
from veneer.training.run import train

PRIVATE_DISK = """
import json, subprocess
from pathlib import Path
def mount(options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", "/mnt"], check=True)
def remount(options):
    subprocess.run(["mount", "-o", "remount," + options, "/mnt"], check=True)
root = Path("/mnt")
"""


def on_a_private_disk(code: str) -> Any:
    """Run Python code that may mount a tmpfs at `/mnt` which only its own process sees; gives its `answer`."""
    enter = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    try:
        possible = subprocess.run([*enter, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("this system gives no mount namespace to this user, so that no disk can be filled")
    program = f"{PRIVATE_DISK}\n{code}\nprint(json.dumps(answer))"
    done = subprocess.run([*enter, sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


FULL_DISK = """
mount("size=700k")
import hashlib
from veneer.config import parse
from veneer.config.values import read_yaml
from veneer.errors import OutputError
from veneer.training.folder.checkpoint import verify
from veneer.training.run import train
config = parse(read_yaml(Path({config!r})), where="x")
error = None
try:
    train(config)
except OutputError as caught:
    error = [str(caught), caught.exit_code]
steps = sorted(p.name for p in Path("/mnt/run/checkpoints").iterdir())
faults = [verify(Path("/mnt/run/checkpoints") / s) for s in steps]
remount("size=64m")
train(config, resume=True)
digest = hashlib.sha256(Path("/mnt/run/adapter_model.safetensors").read_bytes()).hexdigest()
answer = [error, steps, faults, digest]
"""


@pytest.mark.scenario(number=8)
def test_a_disk_that_fills_up_costs_nothing_that_was_complete(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    settings = ("train.steps=24", "train.save_every=2", "train.keep=50")
    config = run_config(tiny_model, tiny_data, Path("/mnt/run"), *settings)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    error, steps, faults, digest = on_a_private_disk(FULL_DISK.format(config=str(tmp_path / "config.yaml")))
    assert error is not None
    assert error[1] == 2
    assert "No space left on device" in error[0]
    assert ".partial-" not in error[0]
    assert f"Then continue after step {int(steps[-1].removeprefix('step-'))} with --resume." in error[0]
    assert len(steps) >= 2
    assert all(name.startswith("step-") for name in steps)
    assert faults == [None] * len(steps)
    train(run_config(tiny_model, tiny_data, tmp_path / "whole", *settings))
    assert hashlib.sha256(weights(tmp_path / "whole", "lora")).hexdigest() == digest


@pytest.mark.repeated
@pytest.mark.scenario(number=8)
def test_a_file_that_may_grow_no_further_costs_nothing_that_was_complete(
    command_line: CommandLine, tiny_model: Path, tiny_data: Path, tmp_path: Path, rounds: int
) -> None:
    """The limit falls into another file of the checkpoint, or of the run, each time."""
    settings = ("train.steps=6", "train.save_every=2", "train.keep=50")
    whole = train(run_config(tiny_model, tiny_data, tmp_path / "whole", *settings)).output
    sizes = sorted(file.stat().st_size for file in whole.rglob("*") if file.is_file() and file.stat().st_size > 1000)
    source = random.Random(rounds)
    for number in range(2 * rounds if rounds > 1 else 1):
        output = tmp_path / str(number)
        argv = options(tiny_model, tiny_data, output, *settings)
        assert command_line.run(*argv, when=output / "checkpoints" / "step-000002" / "manifest.json").code == -9
        before = tree(output / "checkpoints" / "step-000002")
        ended = command_line.run(*argv, "--resume", limits={"RLIMIT_FSIZE": source.choice(sizes) - 1})
        assert ended.code == 2, ended.err
        assert "File too large" in ended.err
        assert "Traceback" not in ended.err
        assert tree(output / "checkpoints" / "step-000002") == before
        assert [verify(folder) for folder in (output / "checkpoints").glob("step-*")].count(None) >= 1
        assert command_line.run(*argv, "--resume").code == 0
        assert weights(output, "lora") == weights(whole, "lora")


# ------------------------------------------------------------------------------------------------------ every function

ATTEMPTS = """
import resource, signal
import torch
from veneer.config import parse
from veneer.errors import OutputError
from veneer.io.files import atomic_folder, make_output_folder, remove_partial, staged_files, write_tensors, write_text
from veneer.io.locks import exclusive
from veneer.training.run import train
SIZE = 2_000_000
def folder():
    with atomic_folder(root / "new") as place:
        (place / "a").write_text("x" * SIZE)
def tensors():
    with atomic_folder(root / "new") as place:
        write_tensors(place / "t", {"a": torch.zeros(SIZE // 4)}, {})
def staged():
    with staged_files(root) as place:
        (place / "old").write_text("x" * SIZE)
def lock():
    with exclusive(root): pass
def text():
    write_text(root / "old", "x" * SIZE)
def run():
    train(parse({"model": "/no/such/model", "output": "/mnt/run", "data": {"file": "/no/such/rows.jsonl"}}, where="x"))
def attempt(action):
    try:
        action()
    except OutputError as error:
        return str(error)
    return None
def left():
    return sorted(path.name for path in root.iterdir())
answer = {}

mount("size=1m")
write_text(root / "old", "kept")
answer["full"] = [[attempt(a) for a in (folder, tensors, staged, text)], (root / "old").read_text(), left()]

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
remount("size=16m")
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
answer["limited"] = [[attempt(a) for a in (folder, tensors, staged, text)], (root / "old").read_text(), left()]

SIZE = 10
(root / ".partial-1-x").write_text("x")
remount("ro")
actions = (folder, tensors, staged, lock, text, lambda: make_output_folder(root),
           lambda: make_output_folder(root / "sub"), lambda: remove_partial(root))
answer["read-only"] = [[attempt(a) for a in actions], (root / "old").read_text()]
answer["a run"] = attempt(run)

mount("size=64k")
try:
    with (root / "filler").open("wb") as f:
        while True: f.write(b"x" * 4096); f.flush()
except OSError: pass
answer["no byte"] = [attempt(lambda: make_output_folder(root)), left()]
"""


@pytest.fixture(scope="module")
def attempts() -> dict[str, Any]:
    """What every function that writes answers on disks of every kind."""
    answer: dict[str, Any] = on_a_private_disk(ATTEMPTS)
    return answer


@pytest.mark.scenario(number=8)
@pytest.mark.parametrize(("disk", "reason"), [("full", "No space left on device"), ("limited", "File too large")])
def test_what_cannot_be_written_whole_is_an_output_error_and_the_old_content_stands(
    disk: str, reason: str, attempts: dict[str, Any]
) -> None:
    errors, old, left = attempts[disk]
    assert old == "kept"
    assert left == ["old"]
    for error in errors:
        assert reason in error
        assert error.startswith("/mnt")
        assert "Free space or give another output folder" in error


@pytest.mark.scenario(number=8)
def test_a_disk_without_a_free_byte_is_found_before_anything_starts(attempts: dict[str, Any]) -> None:
    error, left = attempts["no byte"]
    assert "No space left" in error
    assert left == ["filler"]


@pytest.mark.scenario(number=9)
def test_a_read_only_disk_is_an_output_error_whatever_is_tried(attempts: dict[str, Any]) -> None:
    errors, old = attempts["read-only"]
    assert old == "kept"
    for error in errors:
        assert error is not None
        assert "Read-only file system" in error


@pytest.mark.scenario(number=9)
def test_a_read_only_output_is_refused_before_model_and_rows_are_touched(attempts: dict[str, Any]) -> None:
    message = attempts["a run"]
    assert "Read-only file system" in message
    assert "/mnt/run" in message
    assert "/no/such" not in message
