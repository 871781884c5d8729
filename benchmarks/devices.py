"""Several processes beside one: tokens a second, memory of each, and bytes sent against the formula.

    python benchmarks/devices.py --model MODEL                    two processes of one thread, and one of two threads
    python benchmarks/devices.py --model MODEL --processes 8      on GPUs: eight processes, and one

Runs come in turn, a pair a round, so that both meet the same machine; the ratio is that of a pair, and the median of
the ratios counts. Tokens a second are those of the steps after the first, without loading. On CPUs both sides have as
many threads in all. On GPUs nothing of this has been measured yet.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

DATA = Path(__file__).parents[1] / "examples" / "claims" / "train.jsonl"


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
    return parser.parse_args()


def train(options: argparse.Namespace, output: Path, processes: int, threads: int) -> list[dict[str, float]]:
    """Train in so many processes; the steps that the run tells of."""
    command = [
        sys.executable, "-m", "veneer", "train", "--model", options.model, "--data", str(DATA), "--method",
        options.method, "--output", str(output), "--steps", str(options.steps), "--batch-size", str(options.rows),
        "--device", options.device, "--devices", str(processes), "--set", f"compute.threads={threads}",
        "--set", f"train.lanes={options.processes}", "--set", "train.save_every=1000000",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    lines = (output / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "StepDone"]


def rate(steps: list[dict[str, float]]) -> float:
    """Tokens a second of the steps after the first."""
    return sum(step["tokens"] for step in steps[1:]) / sum(step["seconds"] for step in steps[1:])


def main() -> None:
    """Measure and print."""
    options = arguments_of()
    ratios = []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            many = train(options, Path(folder) / "many", options.processes, 1)
            one = train(options, Path(folder) / "one", 1, options.processes)
            losses = max(abs(a["loss"] - b["loss"]) for a, b in zip(many, one, strict=True))
        ratios.append(rate(many) / rate(one))
        print(
            f"round {number + 1}: {options.processes} processes {rate(many):,.0f} tokens/s, "
            f"{max(step['memory_mb'] for step in many):,.0f} MB (rank 0); one process {rate(one):,.0f} tokens/s, "
            f"{max(step['memory_mb'] for step in one):,.0f} MB; ratio {ratios[-1]:.3f}; "
            f"losses differ by at most {losses:.1e}",
            flush=True,
        )
    print(f"median ratio of {options.rounds} rounds: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
