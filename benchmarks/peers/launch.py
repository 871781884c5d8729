"""Environments of the peers, the model and rows that all systems share, and one system's script as a process."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.measure import Record, Task, arguments, read_record

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "bench"
PEERS = Path(__file__).parent
SHARED_DATA = ROOT.parent / "shared" / "data" / "gsm8k" / "train.jsonl"
"""GSM8K, where somebody has laid it beside the checkout."""
BUNDLED_DATA = ROOT / "examples" / "claims" / "train.jsonl"
HELD = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
    "avx512bf16": {
        "ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
}  # fmt: skip
"""The environment that holds torch and its libraries to the instruction set of one of veneer's kernels. bitsandbytes'
own kernels choose for themselves."""
TIME_LIMIT = 900
"""Seconds for one run of one system."""


class Unavailable(Exception):
    """Why a system cannot be installed or run, in a sentence."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment, made from a file of requirements; without one, the environment that runs this."""

    folder: Path | None
    requirements: Path | None

    @property
    def python(self) -> str:
        """Its interpreter."""
        return sys.executable if self.folder is None else str(self.folder / "bin" / "python")

    def install(self) -> None:
        """Make it, unless it stands already with these requirements.

        Raises:
            Unavailable: pip failed.
        """
        if self.folder is None or self.requirements is None:
            return
        stamp = self.folder / ".installed"
        wanted = self.requirements.read_text(encoding="utf-8")
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
            return
        log = BUILD / f"install-{self.folder.name.lstrip('.')}.log"
        _call([sys.executable, "-m", "venv", str(self.folder)], log)
        pip = [self.python, "-m", "pip", "--disable-pip-version-check", "install"]
        _call([*pip, "--requirement", str(self.requirements)], log)
        stamp.write_text(wanted, encoding="utf-8")


OWN = Environment(None, None)
TRL = Environment(ROOT / ".venv-bench", PEERS / "requirements-trl.txt")
UNSLOTH = Environment(ROOT / ".venv-bench-unsloth", PEERS / "requirements-unsloth.txt")


@dataclass(frozen=True, slots=True)
class Run:
    """One system's record, and what else went on meanwhile."""

    record: Record
    others: float | None
    """Processor cores that other programs used on average, where the system tells."""


@dataclass(slots=True)
class Others:
    """How much of the processor everything else uses."""

    _busy: float = field(default=0.0, init=False)
    _own: float = field(default=0.0, init=False)

    def start(self) -> None:
        """Count from here."""
        self._busy, self._own = _busy_seconds() or 0.0, _own_seconds()

    def seconds(self) -> float | None:
        """CPU seconds of all processes but this one and its children since `start`; None where nothing tells."""
        busy = _busy_seconds()
        return None if busy is None else max(0.0, busy - self._busy - (_own_seconds() - self._own))


def _busy_seconds() -> float | None:
    stat = Path("/proc/stat")
    if not stat.is_file():
        return None
    user, nice, system, _idle, _wait, interrupts, soft, steal = stat.read_text().split()[1:9]
    return sum(map(int, (user, nice, system, interrupts, soft, steal))) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def run(environment: Environment, script: str, name: str, **task: Any) -> Run:
    """Run a system's script in a fresh process and read what it measured.

    Args:
        environment: where the script runs.
        script: its file in this folder.
        name: of the log and the record in the build folder.
        task: the fields of `Task` but `result`.

    Raises:
        Unavailable: it failed, or took longer than the limit.
    """
    result = BUILD / f"{name}.json"
    result.unlink(missing_ok=True)
    words = arguments(Task(**task, result=result))
    others = Others()
    others.start()
    command = [environment.python, str(PEERS / script), *words]
    seconds = _call(command, BUILD / f"{name}.log", task["threads"], HELD.get(task.get("variant") or "", {}))
    foreign = others.seconds()
    return Run(read_record(result), None if foreign is None else foreign / seconds)


def _call(command: Sequence[str], log: Path, threads: int = 1, held: Mapping[str, str] | None = None) -> float:
    """Run a command with its output in `log`; returns its seconds."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        # Everything is on the disk: no library is to ask a server before it starts.
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(BUILD / "huggingface"),
        "TOKENIZERS_PARALLELISM": "false",
        **(held or {}),
    }
    with tempfile.TemporaryDirectory(dir=log.parent) as scratch, log.open("wb") as output:
        start = os.times().elapsed
        try:
            # In a folder of its own, since some libraries write caches where they are called.
            done = subprocess.run(
                command, cwd=scratch, env=environment, stdout=output, stderr=output, timeout=TIME_LIMIT, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"was stopped after {TIME_LIMIT} s (log: {_shown(log)})") from error
        except OSError as error:
            raise Unavailable(f"cannot be started: {error}") from error
        seconds = os.times().elapsed - start
    if done.returncode:
        raise Unavailable(f"{reason(log.read_text(encoding='utf-8', errors='replace'))} (log: {_shown(log)})")
    return seconds


def reason(log: str) -> str:
    """The line of a log that says best why a command failed: the last that names an error, else the last one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "ERROR" in line]
    return (errors or lines or ["it failed without a word"])[-1]


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def model_folder(say: Callable[[str], None], peers: Sequence[Environment] = (TRL, UNSLOTH)) -> Path:
    """The bundled model as a Hugging Face directory, made once with the first peer that can.

    Without any peer it is the GGUF file itself, which veneer reads.
    """
    from veneer.bundled import bundled_model

    gguf, folder = Path(bundled_model()), BUILD / "model"
    if folder.is_dir():
        return folder
    for environment in peers:
        try:
            environment.install()
            _call([environment.python, str(PEERS / "make_model.py"), str(gguf), str(folder)], BUILD / "model.log")
        except Unavailable as problem:
            say(f"no model's folder from {environment.requirements and environment.requirements.name}: {problem}")
        else:
            return folder
    return gguf


def choose_data(given: Path | None, say: Callable[[str], None]) -> Path:
    """The rows' file: what was given, else GSM8K beside the checkout, else the bundled examples."""
    if given is not None:
        return given
    if SHARED_DATA.is_file():
        return SHARED_DATA
    say(f"rows: the bundled examples, {_shown(BUNDLED_DATA)} (name another file with DATA=FILE or --data FILE)")
    return BUNDLED_DATA


def conversation(row: dict[str, Any]) -> dict[str, Any]:
    """A row as a prompt and the completion that trains: from GSM8K's keys or a chat, whose last turn trains.

    Raises:
        ValueError: the row is neither.
    """
    if "question" in row and "answer" in row:
        row = {
            "messages": [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["answer"]},
            ]
        }
    turns = row.get("messages") or []
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise ValueError(f"neither question and answer nor messages that end with the assistant's: {list(row)}")
    return {"prompt": turns[:-1], "completion": turns[-1:]}


def write_rows(data: Path, count: int, path: Path) -> Path:
    """The first `count` rows of `data` as `conversation` makes them.

    Raises:
        ValueError: there are not so many rows.
    """
    with data.open(encoding="utf-8") as file:
        lines = [line for _, line in zip(range(count), file, strict=False)]
    if len(lines) < count:
        raise ValueError(f"{data} has {len(lines)} rows; {count} are needed: take fewer steps or rows a step")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(conversation(json.loads(line))) + "\n" for line in lines), encoding="utf-8")
    return path
