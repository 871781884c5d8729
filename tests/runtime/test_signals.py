"""A signal ends the command line at any moment: soon, with its own exit code and a message, and nothing is torn."""

from __future__ import annotations

import fcntl
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.models.tiny import CommandLine, rows, run_config, tree, write_rows
from helpers.processes.forking import ForkServer
from helpers.servers.served import until
from helpers.training.training_runs import options
from veneer.config import to_yaml
from veneer.errors import Interrupted
from veneer.io.leftovers import PARTIAL
from veneer.runtime import signals
from veneer.runtime.signals import GRACE, SIGNALS
from veneer.training.folder.checkpoint import verify
from veneer.training.run import train

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def interrupts_are_heard() -> Iterator[None]:
    """Tests may run in the background of a shell, which lets its children ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@dataclass
class Ended:
    code: int
    err: str
    seconds: float
    """From the first signal on."""


def signalled(
    command: Sequence[str],
    ready: Callable[[], bool] | float,
    *sent: int,
    heard: Callable[[], bool] = lambda: True,
    wait: float = 60.0,
) -> Ended:
    """Run a command and send it signals when it is ready, or after so many seconds; those after the first one when that
    was `heard`, since two that nobody has taken yet are one.

    A command that ends before is no error: its code is 0 then.
    """
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + (wait if callable(ready) else ready)
    while process.poll() is None and time.monotonic() < end and not (callable(ready) and ready()):
        time.sleep(0.002)
    begun = time.monotonic()
    for number in sent:
        if process.poll() is None:
            os.kill(process.pid, number)
        assert until(lambda: process.poll() is not None or heard(), wait)
        time.sleep(0.05)
    _, err = process.communicate(timeout=wait)
    return Ended(process.returncode, err.decode("utf-8", "replace"), time.monotonic() - begun)


def program(folder: Path, body: str) -> list[str]:
    """A program that runs `work`, with a file that says that it has begun."""
    file = folder / "program.py"
    file.write_text(
        "import signal, sys, time\nfrom pathlib import Path\nfrom veneer.runtime import signals\n"
        f"READY, LEFT, HEARD = (Path({str(folder)!r}, name) for name in ('ready', 'left', 'heard'))\n{body}\n"
        "signals.end_by_signals(work)\n"
    )
    return [sys.executable, str(file)]


SLEEP = "def work():\n    try:\n        READY.touch()\n        time.sleep(30)\n    finally:\n        LEFT.touch()"


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_ends_what_is_done_and_cleans_up(number: signal.Signals, tmp_path: Path) -> None:
    ended = signalled(program(tmp_path, SLEEP), (tmp_path / "ready").exists, number)
    assert ended.code == 128 + number
    assert f"error: stopped by {number.name}." in ended.err
    assert "Traceback" not in ended.err
    assert (tmp_path / "left").exists()
    assert ended.seconds < 25  # it would sleep for 30 s


def test_a_signal_that_is_ignored_from_outside_stays_ignored(tmp_path: Path) -> None:
    body = "def work():\n    READY.touch()\n    time.sleep(0.3)\n    print('done')"
    command = ["nohup", *program(tmp_path, body)]
    ended = signalled(command, (tmp_path / "ready").exists, signal.SIGHUP)
    assert (ended.code, "stopped" in ended.err) == (0, False)


DEFERRED = """
def work():
    try:
        with signals.deferred(lambda: LEFT.touch()):
            READY.touch()
            noted = 0
            while noted < ROUNDS:
                time.sleep(0.05)
                if signals.stop_signalled():
                    HEARD.touch()
                    noted += 1
                    print('noted', file=sys.stderr)
        print('after', file=sys.stderr)
    except BaseException as error:
        print('met', type(error).__name__, file=sys.stderr)
        raise
"""


def deferred(folder: Path, rounds: int) -> list[str]:
    """A program that goes on for so many rounds after it has noted a signal."""
    return program(folder, f"ROUNDS = {rounds}\n{DEFERRED}")


@pytest.mark.parametrize("body", [SLEEP, f"ROUNDS = 1\n{DEFERRED}"], ids=["stopped", "noted"])
def test_a_process_that_leaves_speaking_to_another_ends_in_silence(body: str, tmp_path: Path) -> None:
    silent = body.replace("READY.touch", "signals.leave_speaking_to_another() or READY.touch")
    ended = signalled(program(tmp_path, silent), (tmp_path / "ready").exists, signal.SIGTERM)
    assert ended.code == 143
    assert "SIGTERM" not in ended.err


def test_where_signals_are_deferred_they_are_noted_and_take_effect_at_the_end(tmp_path: Path) -> None:
    ended = signalled(deferred(tmp_path, 6), (tmp_path / "ready").exists, signal.SIGTERM)
    assert ended.code == 143
    assert ended.err.count("noted") == 6
    assert "met Stopped" in ended.err
    assert "after\n" not in ended.err
    assert (tmp_path / "left").exists()


def test_a_signal_that_a_block_has_heeded_does_not_take_effect_again(tmp_path: Path) -> None:
    body = DEFERRED.replace("LEFT.touch()):", "LEFT.touch()) as heed:").replace("'noted', ", "heed() or 'noted', ")
    ended = signalled(program(tmp_path, f"ROUNDS = 6\n{body}"), (tmp_path / "ready").exists, signal.SIGTERM)
    assert ended.code == 0
    assert "after\n" in ended.err


def test_a_second_interrupt_ends_at_once_and_a_second_request_of_a_supervisor_does_not(tmp_path: Path) -> None:
    ready, heard = (tmp_path / "ready").exists, (tmp_path / "heard").exists
    ended = signalled(deferred(tmp_path, 1_000_000), ready, signal.SIGINT, signal.SIGINT, heard=heard)
    assert (ended.code, "met" in ended.err) == (130, False)
    for name in ("ready", "heard"):
        (tmp_path / name).unlink()
    twice = (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP)
    again = signalled(deferred(tmp_path, 20), ready, *twice, heard=heard)
    assert (again.code, "met Stopped" in again.err) == (143, True)


def test_a_program_that_holds_the_request_up_is_ended(tmp_path: Path) -> None:
    body = (
        "signals.GRACE = 0.3\ndef work():\n    while True:\n        try:\n"
        "            READY.touch()\n            time.sleep(60)\n        except BaseException:\n            pass"
    )
    ended = signalled(program(tmp_path, body), (tmp_path / "ready").exists, signal.SIGTERM)
    assert ended.code == 143
    assert "error: stopped by SIGTERM. Something did not stop within 0.3 s" in ended.err
    assert 0.25 < ended.seconds < 50
    assert GRACE < 10


def test_a_library_that_swallows_the_stop_and_fails_later_ends_by_the_signal(tmp_path: Path) -> None:
    body = (
        "def work():\n    READY.touch()\n    try:\n        time.sleep(30)\n"
        "    except BaseException:\n        pass\n    raise AttributeError('half imported')"
    )
    ended = signalled(program(tmp_path, body), (tmp_path / "ready").exists, signal.SIGTERM)
    assert ended.code == 143
    assert "error: stopped by SIGTERM." in ended.err
    assert "half imported" not in ended.err


DROPS = {
    "a weak reference": "import weakref\nclass Held: pass\nheld = Held()\nweak = weakref.ref(held, lambda _: rest())",
    "__del__": "class Held:\n    def __del__(self):\n        rest()\nheld = Held()",
}


@pytest.mark.parametrize("where", DROPS)
def test_a_signal_whose_exception_python_drops_still_stops(where: str, tmp_path: Path) -> None:
    body = (
        f"def rest():\n    READY.touch()\n    time.sleep(0.5)\n{DROPS[where]}\n"
        "def work():\n    global held\n    try:\n        del held\n        time.sleep(30)\n"
        "    finally:\n        LEFT.touch()"
    )
    ended = signalled(program(tmp_path, body), (tmp_path / "ready").exists, signal.SIGTERM)
    assert ended.code == 128 + signal.SIGTERM
    assert "error: stopped by SIGTERM." in ended.err
    assert "Traceback" not in ended.err
    assert (tmp_path / "left").exists()
    assert ended.seconds < 25  # it would sleep for 30 s


def test_what_python_drops_otherwise_is_told_as_ever(tmp_path: Path) -> None:
    body = "class Held:\n    def __del__(self):\n        raise ValueError('lost')\ndef work():\n    Held()"
    ended = signalled(program(tmp_path, body), 30.0)
    assert (ended.code, "ValueError: lost" in ended.err) == (0, True)


def test_a_module_is_imported_to_its_end_before_the_stop(tmp_path: Path) -> None:
    """Where C++ imports a module, an exception in it would end the process by SIGABRT."""
    ready, whole = (str(tmp_path / name) for name in ("ready", "whole"))
    (tmp_path / "slow_module.py").write_text(
        f"import time\nfrom pathlib import Path\nPath({ready!r}).touch()\ntime.sleep(0.5)\nPath({whole!r}).touch()\n"
    )
    body = (
        "def work():\n    try:\n        import slow_module\n        time.sleep(30)\n    finally:\n        LEFT.touch()"
    )
    ended = signalled(program(tmp_path, body), (tmp_path / "ready").exists, signal.SIGTERM)
    assert ended.code == 128 + signal.SIGTERM
    assert (tmp_path / "whole").exists()
    assert (tmp_path / "left").exists()
    assert ended.seconds < 25  # it would sleep for 30 s


def test_a_result_that_is_complete_keeps_its_code(tmp_path: Path) -> None:
    body = (
        "import atexit\ndef late():\n    READY.touch()\n    time.sleep(0.5)\natexit.register(late)\n"
        "def work():\n    sys.exit(3)"
    )
    ended = signalled(program(tmp_path, body), (tmp_path / "ready").exists, signal.SIGINT, signal.SIGTERM)
    assert (ended.code, ended.err) == (3, "")


# --------------------------------------------------------------------------------------------------- other programs


def interrupted(times: int, error: Interrupted | None = None) -> None:
    """A block in which Ctrl-C is pressed so often, and which then ends with an error or normally."""
    with signals.interrupts_noted(), signals.deferred():
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
            assert signals.stop_signalled()
        if error is not None:
            raise error


def test_ctrl_c_of_another_program_is_noted_once_and_only_where_it_is_deferred() -> None:
    stopped = Interrupted("stopped after step 7")
    with pytest.raises(KeyboardInterrupt), signals.interrupts_noted():
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="after step 7"):
        interrupted(1, stopped)
    for times in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            interrupted(times)
    with pytest.raises(Interrupted):  # by a stop of the caller's own
        interrupted(0, stopped)
    interrupted(0)
    assert not signals.stop_signalled()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_program_keeps_its_own_handler_of_ctrl_c_and_another_thread_installs_none() -> None:
    heard: list[int] = []

    def own(number: int, frame: object) -> None:
        heard.append(number)

    signal.signal(signal.SIGINT, own)
    with signals.interrupts_noted(), signals.deferred():
        signal.raise_signal(signal.SIGINT)
        assert not signals.stop_signalled()
    assert heard == [signal.SIGINT]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with ThreadPoolExecutor(1) as pool:
        inside = pool.submit(_handler_while_noted).result()
    assert inside is signal.default_int_handler


def _handler_while_noted() -> object:
    with signals.interrupts_noted(), signals.deferred():
        return signal.getsignal(signal.SIGINT)


# --------------------------------------------------------------------------------------------------- whole processes

ALL_OF_IT = (
    "train.epochs=3", "train.save_every=2", "train.eval_every=2", "data.held_out=0.2", "lora.dropout=0.1",
    "compute.micro_batch_tokens=100",
)  # fmt: skip


def checked(ended: Ended, number: int, folder: Path) -> bool:
    """Whether a signal hit a program of the command line at work, which must have ended as documented."""
    if ended.code == -number:
        # Python itself was still starting, and did not know the handlers yet.
        assert "veneer" not in ended.err.replace("-m veneer", ""), ended.err
        return False
    assert ended.code in (0, 128 + number), ended.err
    assert "Traceback" not in ended.err
    assert ended.seconds < 3 * GRACE
    if ended.code:
        assert "stopped" in ended.err
        assert [str(path) for path in folder.rglob(f"{PARTIAL}*")] == []
    return ended.code != 0


@pytest.mark.repeated
def test_runs_signalled_at_random_instants_resume_to_the_same_bytes(
    command_line: CommandLine, tiny_model: Path, tiny_data: Path, tmp_path: Path, rounds: int
) -> None:
    whole = train(run_config(tiny_model, tiny_data, tmp_path / "whole", *ALL_OF_IT))
    command_line.run("--version")  # waits for the forking process, which imports everything
    (tmp_path / "timed.yaml").write_text(to_yaml(run_config(tiny_model, tiny_data, tmp_path / "timed", *ALL_OF_IT)))
    begun = time.monotonic()
    assert command_line.run("train", "--config", str(tmp_path / "timed.yaml")).code == 0
    seconds = time.monotonic() - begun
    source = random.Random(5)
    wanted, hits, number = max(3, rounds), 0, 0
    while hits < wanted:
        number += 1
        assert number < 20 * wanted, f"only {hits} of {number} runs were hit at work"
        output, sent = tmp_path / str(number), SIGNALS[number % 3]
        file = output.with_suffix(".yaml")
        file.write_text(to_yaml(run_config(tiny_model, tiny_data, output, *ALL_OF_IT)))
        argv = ["train", "--config", str(file), "--resume"]
        ended = command_line.run(*argv, after=source.uniform(0.0, seconds), sent=sent)
        # The child is forked before its handlers are there.
        assert ended.code in (0, 128 + sent, -sent), ended.err
        assert "Traceback" not in ended.err or ended.code == -sent
        hits += ended.code == 128 + sent
        for folder in (output / "checkpoints").glob("step-*"):
            assert verify(folder) is None
        again = command_line.run(*argv)
        assert again.code == 0, again.err
        assert (output / WEIGHTS).read_bytes() == (whole.output / WEIGHTS).read_bytes()
        assert (output / "loss.svg").read_bytes() == (whole.output / "loss.svg").read_bytes()
        summaries = [json.loads((folder / "summary.json").read_text()) for folder in (output, whole.output)]
        assert [one["best_loss"] for one in summaries] == [summaries[1]["best_loss"]] * 2


def verbs(model: Path, data: Path, folder: Path, adapter: Path) -> dict[str, list[str]]:
    """A command line for every verb that takes a while; what it writes lies below `folder`."""
    config = folder / "run.yaml"
    config.write_text(to_yaml(run_config(model, data, folder / "run", *ALL_OF_IT)))
    base = ["--model", str(model)]
    tuned = [*base, "--adapter", str(adapter)]
    rates = "train.learning_rate=0.01,0.001"
    found = {
        "train": ["train", "--config", str(config), "--resume"],
        "evaluate": ["evaluate", *tuned, "--data", str(data)],
        "generate": ["generate", *tuned, "--prompt", "What?", "--max-new-tokens", "200"],
        "export": ["export", *tuned, "--output", str(folder / "merged")],
        "quantize": ["quantize", *base, "--output", str(folder / "nf4")],
        "reproduce": ["reproduce", str(adapter), "--output", str(folder / "again")],
        "sweep": ["sweep", *base, "--data", str(data), "--output", str(folder / "sweep"), "--grid", rates,
                  "--set", "train.epochs=2"],
        "compare": ["compare", *base, "--data", str(data), "--output", str(folder / "compare"), "--seeds", "1",
                    "--methods", "lora", "--set", "train.epochs=1"],
        "data": ["data", str(data), *base],
    }  # fmt: skip
    return {name: [sys.executable, "-m", "veneer", *argv] for name, argv in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("verb", verbs(Path(), Path(), Path("/tmp"), Path()))
def test_every_verb_ends_at_random_instants_of_its_whole_life(verb: str, tiny_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rows(60))
    adapter = train(run_config(tiny_model, data, tmp_path / "adapter", *ALL_OF_IT)).output
    before = tree(adapter)
    source = random.Random(verb)
    (tmp_path / "whole").mkdir()
    begun = time.monotonic()
    assert signalled(verbs(tiny_model, data, tmp_path / "whole", adapter)[verb], 300.0).code in (0, 1)
    seconds = time.monotonic() - begun
    for sent in SIGNALS:
        folder = tmp_path / sent.name
        folder.mkdir()
        for _ in range(9):
            command = verbs(tiny_model, data, folder, adapter)[verb]
            if checked(signalled(command, source.uniform(0.05, 0.9 * seconds), sent), sent, folder):
                break
            shutil.rmtree(folder)
            folder.mkdir()
        else:
            pytest.fail(f"{sent.name} never hit {verb} at work")
        if verb in ("train", "sweep"):
            assert signalled(command, 300.0).code == 0
            for file in folder.rglob(WEIGHTS):
                same = tmp_path / "whole" / file.relative_to(folder)
                if same.is_file():
                    assert file.read_bytes() == same.read_bytes()
    assert tree(adapter) == before


@pytest.mark.parametrize("closed", [1, 2])
def test_a_stream_that_was_closed_from_the_start_changes_no_code_and_gets_no_file(closed: int, tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from veneer.cli import _fill_standard_streams\n"
        "from veneer.runtime.signals import leave\n"
        "_fill_standard_streams()\n"
        f"assert os.open({str(tmp_path / 'file')!r}, os.O_CREAT | os.O_WRONLY) > 2\n"
        f"assert (sys.stdout, sys.stderr)[{closed - 1}] is None\n"
        "leave(143)\n"
    )
    shell = f'exec "$0" -c "$1" {closed}>&-'
    ended = subprocess.run(["sh", "-c", shell, sys.executable, program], check=False)
    assert ended.returncode == 143


# ------------------------------------------------------------------------------------------ streams that nobody reads


def full_pipe() -> tuple[int, int]:
    """Both ends of a pipe that takes nothing more."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    return reader, writer


PRINTS = "print('a line', file=sys.stderr, flush=True); print('a line', flush=True)"
UNREAD = {
    "at once": f"def work():\n    try:\n        READY.touch(); {PRINTS}; time.sleep(60)\n"
    f"    finally:\n        {PRINTS}; LEFT.touch()",
    "deferred": "def work():\n    with signals.deferred():\n        READY.touch()\n"
    f"        while not signals.stop_signalled():\n            {PRINTS}\n"
    f"        {PRINTS}; LEFT.touch()",
    "another thread": "import threading\nlock, held = threading.Lock(), threading.Event()\ndef draw():\n"
    f"    with lock:\n        held.set()\n        {PRINTS}\n"
    "def work():\n    threading.Thread(target=draw, daemon=True).start()\n    held.wait()\n"
    "    with signals.deferred():\n        READY.touch()\n        with lock:\n            LEFT.touch()",
    "held up": "signals.GRACE = 0.3\nLEFT.touch()\ndef work():\n    while True:\n        try:\n"
    f"            READY.touch(); {PRINTS}; time.sleep(60)\n        except BaseException:\n            pass",
}  # fmt: skip


@pytest.mark.parametrize("where", UNREAD)
@pytest.mark.parametrize("unread", ["stdout", "stderr", "both"])
def test_a_stream_that_nobody_reads_holds_no_end_up(where: str, unread: str, tmp_path: Path) -> None:
    reader, writer = full_pipe()
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(
            program(tmp_path, f"signals.GRACE = 90.0\n{UNREAD[where]}"),
            stdout=out if unread == "stderr" else writer,
            stderr=err if unread == "stdout" else writer,
        )
    while not (tmp_path / "ready").exists():
        time.sleep(0.002)
    time.sleep(0.3)  # in which the write begins that takes no end
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert (tmp_path / "left").exists()
    if unread == "stdout":
        assert "SIGTERM" in (tmp_path / "err").read_text()
    os.close(reader)
    os.close(writer)


@pytest.mark.scenario(number=6)
@pytest.mark.skipif(sys.platform != "linux", reason="there the size of a pipe cannot be set")
def test_a_run_whose_output_nobody_reads_ends_by_a_signal_with_its_last_step(
    forks: ForkServer, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    settings = ("train.steps=1000", "train.save_every=1000")
    argv = [*options(tiny_model, tiny_data, tmp_path / "run", *settings), "--json"]
    os.mkfifo(tmp_path / "out")
    pipe = os.open(tmp_path / "out", os.O_RDWR)
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 16384)
    pid = forks.start(argv, tmp_path / "out", tmp_path / "err")
    log = tmp_path / "run" / "events.jsonl"
    assert until(lambda: log.is_file() and "StepDone" in log.read_text())
    assert until(lambda: not select.select([], [pipe], [], 0.5)[1])
    os.kill(pid, signal.SIGTERM)
    begun = time.monotonic()
    assert forks.wait(pid) == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 60
    os.close(pipe)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert verify(checkpoint) is None
    assert "SIGTERM" in (tmp_path / "err").read_text()
