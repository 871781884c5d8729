"""Whatever raises it: out of memory is one message, with what was needed and what there was, and no traceback."""

from __future__ import annotations

import errno
import mmap
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.models.tiny import run_config
from veneer.config import to_yaml
from veneer.errors import OutOfMemory
from veneer.machine import out_of_memory
from veneer.machine.out_of_memory import (
    COMPUTING,
    COMPUTING_THREAD,
    LEAST_ADDRESS_SPACE,
    is_out_of_memory,
    message_of,
    out_of_memory_while,
    refuse_full_address_space,
)


def ours() -> None:
    raise RuntimeError("native kernel attention: shapes do not fit")


def of_the_device() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 1 GiB")


@pytest.mark.parametrize(
    ("fails", "found"),
    [
        (lambda: bytearray(1 << 60), True), (lambda: torch.empty(1 << 58), True), (of_the_device, True),
        (lambda: mmap.mmap(-1, 1 << 60), True), (ours, False), (lambda: Path("/none/there").read_text(), False),
        (lambda: torch.zeros(2) @ torch.zeros(3), False),
    ],
)  # fmt: skip
def test_errors_that_mean_it_are_told_from_others(fails: Callable[[], object], found: bool) -> None:
    with pytest.raises((MemoryError, RuntimeError, OSError)) as caught:
        fails()
    assert is_out_of_memory(caught.value) is found
    expected = OutOfMemory if found else type(caught.value)
    with pytest.raises(expected), out_of_memory_while("trying it"):
        fails()


def test_the_message_says_what_was_done_needed_and_there() -> None:
    with (
        pytest.raises(OutOfMemory, match="while loading the model ") as caught,
        out_of_memory_while("loading the model"),
    ):
        torch.empty(1 << 50)
    assert "(4,503,599,627 MB more were requested)" in str(caught.value)
    assert "the machine has" in str(caught.value)
    with pytest.raises(OutOfMemory, match=r"\(20\.00 MiB more were requested\)"), out_of_memory_while("answering"):
        of_the_device()
    assert is_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))


def test_of_a_card_its_own_memory_is_said() -> None:
    said = (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has a total capacity of 79.15 GiB of which 1.20 GiB is "
        "free. Including non-PyTorch memory, this process has 77.94 GiB memory in use."
    )
    told = message_of("computing step 3", said)
    assert told == (
        "out of memory while computing step 3 (2.00 GiB more were requested). There was this much: GPU 1 has "
        "79.15 GiB, 1.20 GiB of it free."
    )


@pytest.mark.scenario(number=20)
@pytest.mark.parametrize("threads", [1, 4])
def test_an_address_space_without_room_to_compute_is_refused_with_what_is_needed(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = COMPUTING + (threads - 1) * COMPUTING_THREAD
    monkeypatch.setattr(out_of_memory, "address_space", lambda: (800_000_000, 800_000_000 + needed))
    refuse_full_address_space(threads)
    monkeypatch.setattr(out_of_memory, "address_space", lambda: (800_000_000, 799_999_999 + needed))
    with pytest.raises(OutOfMemory) as caught:
        refuse_full_address_space(threads)
    assert f"has 800 MB of the {800 + needed // 10**6:,} MB of address space" in str(caught.value)
    assert f"needs {needed // 10**6} MB more to compute on {threads} threads" in str(caught.value)
    assert f"Raise the limit to {800 + needed // 10**6:,} MB at least" in str(caught.value)
    for unknown in ((None, 10), (10, None)):
        monkeypatch.setattr(out_of_memory, "address_space", lambda unknown=unknown: unknown)
        refuse_full_address_space(threads)


def limited(argv: list[str], megabytes: int) -> subprocess.CompletedProcess[str]:
    size = megabytes << 20
    return subprocess.run(
        [sys.executable, "-m", "veneer", *argv],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)),
        timeout=120,
    )


@pytest.mark.scenario(number=20)
@pytest.mark.parametrize(
    "megabytes", [30, 60, 400, LEAST_ADDRESS_SPACE // (1 << 20) + 3, pytest.param(900, marks=pytest.mark.slow)]
)
def test_a_run_in_a_small_address_space_is_made_or_refused(
    megabytes: int, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=2", "data.held_out=0.2")
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(config))
    ended = limited(["train", "--config", str(file)], megabytes)
    assert ended.returncode in (0, 2), ended.stderr
    assert "Traceback" not in ended.stderr
    if ended.returncode:
        assert "memory" in ended.stderr or "address space" in ended.stderr
        assert "MB" in ended.stderr
    if megabytes < 500:
        assert "Raise the limit" in ended.stderr
    assert (ended.returncode == 0) == (tmp_path / "run" / "summary.json").exists()
