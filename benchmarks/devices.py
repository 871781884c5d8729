"""Several processes beside one: tokens a second, losses, memory and sent bytes of each process against the plan.

    python benchmarks/devices.py --model MODEL                    two processes of one thread, and one of two threads
    python benchmarks/devices.py --model MODEL --processes 8      on GPUs: eight processes, and one

Runs come in turn, a pair a round, so that both meet the same machine; the ratio is that of a pair, and the median of
the ratios counts. Tokens a second are those of the steps after the first, without loading. On CPUs both sides have as
many threads in all, and so another number in each process, with which torch adds in another order: the losses differ by
rounding, in the first step by a forward pass's and later by what the steps make of it. `--dtype float32` shows how
little that is. Where the threads of a process are the same too (`--threads`), so are the bytes of the adapters.

Memory and sent bytes are read from Linux's /proc: the peak of each process on a CPU, and what went over the loopback
device between the first step and the last one, by all programs of this machine. On GPUs nothing of this has been
measured yet.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "examples" / "claims" / "train.jsonl"
PROC = Path("/proc")
POLL = 0.05
"""Seconds between two looks at the processes."""
MB = 1e6


def arguments_of() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--method", default="lora", choices=("lora", "qlora"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rows", type=int, default=16, help="rows in a step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", help="of activations and products")
    parser.add_argument(
        "--threads", type=int, help="CPU threads of the single process; as many as processes by default"
    )
    return parser.parse_args()


@dataclass(slots=True)
class Watched:
    """What was seen of a run."""

    events: list[dict[str, Any]] = field(default_factory=list)
    peaks: dict[int, int] = field(default_factory=dict)
    """The peak of each of its processes, by number, in bytes."""
    sent: list[tuple[float, int]] = field(default_factory=list)
    """Times, and the bytes that had gone over the loopback device by then."""
    weights: bytes = b""

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The steps that the run tells of."""
        return [event for event in self.events if event["event"] == "StepDone"]

    @property
    def begun(self) -> dict[str, Any]:
        """What the run says at its beginning."""
        return next(event for event in self.events if event["event"] == "RunStarted")

    @property
    def rate(self) -> float:
        """Tokens a second of the steps after the first."""
        return sum(step["tokens"] for step in self.steps[1:]) / sum(step["seconds"] for step in self.steps[1:])

    def sent_by_each(self, processes: int) -> float:
        """Bytes that a process sent in a step, after the first one."""
        first, last = (
            next((size for when, size in self.sent if when >= step["time"]), self.sent[-1][1])
            for step in (self.steps[0], self.steps[-1])
        )
        return (last - first) / (len(self.steps) - 1) / processes


def train(options: argparse.Namespace, output: Path, processes: int, threads: int) -> Watched:
    """Train in so many processes, and watch them."""
    command = [
        sys.executable, "-m", "veneer", "train", "--model", options.model, "--data", str(DATA), "--method",
        options.method, "--output", str(output), "--steps", str(options.steps), "--batch-size", str(options.rows),
        "--device", options.device, "--devices", str(processes), "--set", f"compute.threads={threads}",
        "--set", f"train.lanes={options.processes}", "--set", "train.save_every=1000000",
        "--set", f"compute.dtype={options.dtype}",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    found = Watched()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, text=True, env=environment)
        while process.poll() is None:
            look(found, process.pid, processes)
            time.sleep(POLL)
        if process.returncode:
            said.seek(0)
            raise SystemExit(said.read())
    lines = (output / "events.jsonl").read_text(encoding="utf-8").splitlines()
    found.events = [json.loads(line) for line in lines]
    found.weights = (output / "adapter_model.safetensors").read_bytes()
    return found


def look(found: Watched, launched: int, processes: int) -> None:
    """Note the peaks of a run's processes, which `--devices` starts, and what has been sent."""
    children = (PROC / str(launched) / "task" / str(launched) / "children") if processes > 1 else None
    try:
        for pid in [launched] if children is None else map(int, children.read_text().split()):
            status = (PROC / str(pid) / "status").read_text()
            peak = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.M)
            if peak is not None:
                found.peaks[pid] = int(peak[1]) * 1024
        device = re.search(r"^\s*lo:\s*(\d+)", (PROC / "net" / "dev").read_text(), re.M)
    except (FileNotFoundError, ProcessLookupError):
        return  # a process has just ended, or this is no Linux
    if device is not None:
        found.sent.append((time.time(), int(device[1])))


def losses(many: Watched, one: Watched) -> list[float]:
    """How far the losses of each step are apart."""
    return [abs(a["loss"] - b["loss"]) for a, b in zip(many.steps, one.steps, strict=True)]


def side(name: str, run: Watched) -> str:
    """The rate and the memory of one side."""
    peaks = " and ".join(f"{peak / MB:,.0f}" for peak in run.peaks.values())
    return f"{name} {run.rate:,.0f} tokens/s, {peaks} MB at the peak ({run.begun['planned_memory_mb']:,.0f} planned)"


def main() -> None:
    """Measure and print."""
    options = arguments_of()
    count, ratios = options.processes, []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            many = train(options, Path(folder) / "many", count, 1)
            one = train(options, Path(folder) / "one", 1, options.threads or count)
        ratios.append(many.rate / one.rate)
        apart, same = losses(many, one), "the same" if many.weights == one.weights else "not the same"
        print(f"round {number + 1}: {side(f'{count} processes', many)}; {side('one process', one)}")
        print(f"  ratio {ratios[-1]:.3f}; the bytes of the adapters are {same}; losses differ by {apart[0]:.1e} in the")
        print(f"  first step, by {max(apart):.1e} at most", flush=True)
        if many.sent:
            formula = 2 * (count - 1) / count * 4 * many.begun["trainable"]
            print(
                f"  sent by each in a step: {many.sent_by_each(count) / MB:,.2f} MB, by the formula {formula / MB:,.2f}"
            )
    print(f"median ratio of {options.rounds} rounds: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
