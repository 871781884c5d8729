"""What every system's script shares: its command line, its rows, its clock and the record that it leaves.

Standard library only, since it runs in every system's environment.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RANK = 16
ALPHA = 32
MAX_LENGTH = 512
LEARNING_RATE = 2e-4
CLIP = 1.0
ANSWERS = 4
"""Sampled to each prompt (GRPO)."""
ANSWER_TOKENS = 32
"""Of a sampled answer at most: few, so that nearly all answers are cut there and all systems sample as many."""
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run of one system."""

    model: Path
    """A Hugging Face directory."""
    rows: Path
    """JSONL; `prompt` and `completion` as lists of turns, or `input_ids` and `completion_mask`."""
    steps: int
    rows_per_step: int
    threads: int
    quantized: bool
    """NF4 with double quantisation beneath the adapter; else the dtype."""
    result: Path
    """Where the record is written."""
    checkpointing: bool = False
    """Recompute activations in backward (TRL and Unsloth)."""
    adapter: Path | None = None
    """An adapter in PEFT's format to start from; by default each system draws its own (TRL and the reference)."""
    floor: bool = False
    """Measure the floor after the steps (veneer)."""
    objective: str = "sft"
    """What is minimised: sft, dpo, kto or grpo (see preference_peers.py)."""
    dtype: str = "bfloat16"
    """The dtype that is computed in, bfloat16 or float32."""
    variant: str | None = None
    """The instruction set of veneer's kernels; by default the best that the processor has (`launch.HELD`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One optimiser step, from the end of the one before it to its own end."""

    wall: float
    """Seconds."""
    cpu: float
    """CPU seconds of the whole process."""
    tokens: int
    """Without padding."""
    supervised: int
    """Tokens that count in the loss."""
    loss: float


@dataclass(slots=True, kw_only=True)
class Record:
    """What a run leaves for the table."""

    steps: list[Step]
    """All of them; the first one warms up and is not to be counted."""
    peak_rss_mb: float
    versions: dict[str, str]
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Clock:
    """Notes wall and CPU time at the end of every step."""

    spans: list[tuple[float, float]] = field(default_factory=list)
    """Wall and CPU seconds of each step so far."""
    _last: tuple[float, float] = (0.0, 0.0)

    def start(self) -> None:
        """The first step begins."""
        self._last = time.perf_counter(), time.process_time()

    def step_ended(self) -> None:
        """Note one step."""
        now = time.perf_counter(), time.process_time()
        self.spans.append((now[0] - self._last[0], now[1] - self._last[1]))
        self._last = now


def parse_task(doc: str | None, words: Sequence[str] | None = None) -> Task:
    """The task that the command line, or `words` in its place, names."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face directory")
    parser.add_argument("--rows", type=Path, required=True, help="JSONL as benchmarks/compare.py writes it")
    parser.add_argument("--result", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--steps", type=int, default=2, help="the first one is not counted")
    parser.add_argument("--rows-per-step", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quantized", action="store_true", help="QLoRA: NF4 with double quantisation")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations (TRL and Unsloth)")
    parser.add_argument("--adapter", type=Path, help="start from this adapter (TRL and the reference)")
    parser.add_argument("--floor", action="store_true", help="measure the floor afterwards (veneer)")
    parser.add_argument("--objective", default="sft", help="what is minimised, by the name that veneer has for it")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--variant", help="the instruction set of veneer's kernels")
    return Task(**vars(parser.parse_args(words)))


def arguments(task: Task) -> list[str]:
    """The command line that `parse_task` reads back to an equal task."""
    words = []
    for one in fields(task):
        value, option = getattr(task, one.name), f"--{one.name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            words += [option, str(value)]
    return words


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def peak_rss_mb() -> float:
    """Peak resident memory of this process since it was started.

    From /proc where there is one: getrusage counts what the process held that started this one, too.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def versions(*packages: str) -> dict[str, str]:
    """Of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_record(path: Path, record: Record) -> None:
    """Write the record as JSON."""
    path.write_text(json.dumps(asdict(record)), encoding="utf-8")


def read_record(path: Path) -> Record:
    """The record that `write_record` wrote."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return Record(**{**values, "steps": [Step(**step) for step in values["steps"]]})
