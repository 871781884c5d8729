"""Streams that cannot be written: what is told beside the result is dropped, and a result that is lost is an error."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from helpers.processes.forking import ForkServer
from helpers.run_folders.run_logs import read_events
from helpers.training.training_runs import options
from veneer.screens.streams import LossyStream


def test_what_a_full_disk_does_not_take_is_dropped_and_nothing_fails_later() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        stream = LossyStream(lambda: full)
        for _ in range(3):
            assert stream.write("a line\n") == 7
            stream.flush()
        assert (stream.isatty(), stream.encoding, stream.fileno()) == (False, "utf-8", full.fileno())
    # Closing wrote what was left in the buffer.
    assert stream.write("a line\n") == 7
    stream.flush()
    assert not stream.isatty()


def test_it_follows_the_stream_of_the_process_and_may_have_none() -> None:
    streams: list[io.StringIO | None] = [io.StringIO()]
    stream = LossyStream(lambda: streams[-1])
    console = Console(file=stream)  # type: ignore[arg-type]
    console.print("first")
    streams.append(second := io.StringIO())
    console.print("second")
    streams.append(None)
    console.print("third")
    assert streams[0] is not None
    assert (streams[0].getvalue(), second.getvalue()) == ("first\n", "second\n")
    assert not stream.isatty()
    with pytest.raises(io.UnsupportedOperation):
        stream.fileno()


def onto_full(argv: list[str], out: str, err: str | None) -> tuple[int, str]:
    """The exit code of the command line with its streams on files, and what it wrote to standard error."""
    with open(out, "w") as output, open(err or "/dev/null", "w") as errors:
        done = subprocess.run(
            [sys.executable, "-m", "veneer", *argv],
            stdout=output,
            stderr=errors if err else subprocess.PIPE,
            text=True,
        )
    return done.returncode, done.stderr or ""


def test_a_run_whose_streams_are_full_ends_well(
    forks: ForkServer, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    argv = options(tiny_model, tiny_data, tmp_path / "run", "train.steps=2")
    assert forks.wait(forks.start(argv, "/dev/full", "/dev/full")) == 0
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()
    last = read_events(tmp_path / "run" / "events.jsonl")[-1]
    assert (last["event"], last["reason"], last["step"]) == ("RunFinished", "complete", 2)


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["doctor"]])
def test_output_that_is_lost_is_an_error(argv: list[str]) -> None:
    code, err = onto_full(argv, "/dev/full", None)
    assert (code, err) == (2, "error: the output cannot be written: No space left on device\n")


@pytest.mark.parametrize("argv", ["--help", "plan --help", pytest.param("doctor", marks=pytest.mark.slow)])
def test_output_that_was_closed_from_the_start_is_an_error(argv: str) -> None:
    command = f"{sys.executable} -m veneer {argv} >&-"
    done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "error: the output cannot be written: Bad file descriptor\n",
    )


@pytest.mark.slow
def test_a_result_does_not_depend_on_the_stream_for_people(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    argv = ["evaluate", "--model", str(tiny_model), "--data", str(tiny_data), "--limit", "2", "--json"]
    out = tmp_path / "out"
    assert onto_full(argv, str(out), "/dev/full")[0] == 0
    assert out.stat().st_size > 100
    assert onto_full(argv, "/dev/full", None)[0] == 2
