"""Several adapters trained over one base in one run, beside one after another.

    python benchmarks/together.py --model MODEL --method lora --rows 4             the pass by itself
    python benchmarks/together.py --model MODEL --method lora --rows 4 --commands  whole commands

The pass: forward and backward of the same steps of all runs, each run in a pass of its own, in passes of at most 1,024
tokens, and all in one pass, in turn; medians, by the clock and by the processor's own time, which other programs
lengthen less.

Commands: `veneer train` for each of the runs, one after another, and one `veneer sweep`; starting, loading and
quantising are in it. The adapters are compared to the byte.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from veneer.config import RunConfig, parse
from veneer.events import ignore
from veneer.training.joint import joined, prepare_joint

DATA = Path(__file__).parents[1] / "examples" / "claims" / "train.jsonl"
WIDTHS = {"one by one": 1, "up to 1,024 tokens": 1024, "all at once": 10**9}


def rate(number: int) -> float:
    """The learning rate of a run."""
    return 1e-4 * 2**number


def config(arguments: argparse.Namespace, output: Path, number: int) -> RunConfig:
    """The run of a number."""
    values = {
        "model": arguments.model,
        "output": str(output),
        "method": arguments.method,
        "data": {"file": str(DATA)},
        "lora": {"rank": 16},
        "train": {
            "steps": arguments.steps,
            "examples_per_step": arguments.rows,
            "seed": number,
            "learning_rate": rate(number),
        },
    }
    return parse(values, where="the benchmark")


def passes(arguments: argparse.Namespace, folder: Path) -> None:
    """Time forward and backward."""
    clock: dict[str, list[float]] = {name: [] for name in WIDTHS}
    used: dict[str, list[float]] = {name: [] for name in WIDTHS}
    tokens = []
    runs = [prepare_joint(config(arguments, folder / str(run), run)) for run in range(arguments.runs)]
    with joined(runs, ignore) as (joint, members):
        joint.model.train()
        for number in range(arguments.steps):
            steps = {member.name: member.session.engine.prepare() for member in members}
            tokens += [sum(len(batch.tokens) for batch in step.batches) for step in steps.values()]
            names = list(WIDTHS)
            for name in names[number % 3 :] + names[: number % 3]:
                began = (time.perf_counter(), time.process_time())
                joint.gradients(steps, WIDTHS[name])
                clock[name].append(time.perf_counter() - began[0])
                used[name].append(time.process_time() - began[1])
            for member in members:
                member.session.engine.progress.step += 1
    print(f"{arguments.method}, {arguments.runs} runs of {statistics.mean(tokens):.0f} tokens a step:")
    first = next(iter(WIDTHS))
    for name in WIDTHS:
        # The first step's passes make the heap.
        ratios = [statistics.median(times[first][1:]) / statistics.median(times[name][1:]) for times in (clock, used)]
        seconds = statistics.median(clock[name][1:])
        print(f"  {name}: {seconds:.2f} s, {ratios[0]:.2f} x as fast by the clock, {ratios[1]:.2f} x by the processor")


def commands(arguments: argparse.Namespace, folder: Path) -> None:
    """Time whole commands, and compare what they made."""
    common = [
        *("--model", arguments.model, "--data", str(DATA), "--method", arguments.method, "--set", "lora.rank=16"),
        *("--set", f"train.steps={arguments.steps}", "--set", f"train.examples_per_step={arguments.rows}"),
    ]
    rates = [str(rate(number)) for number in range(arguments.runs)]

    def veneer(*words: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "veneer", *words], check=True, capture_output=True)
        return time.perf_counter() - began

    one_after_another = sum(
        veneer("train", *common, "--set", f"train.learning_rate={value}", "--output", str(folder / f"{number}"))
        for number, value in enumerate(rates)
    )
    grid = f"train.learning_rate={','.join(rates)}"
    together = veneer("sweep", *common, "--grid", grid, "--output", str(folder / "sweep"))
    made = sorted((folder / "sweep").glob("*/adapter_model.safetensors"))
    alone = [folder / f"{number}" / "adapter_model.safetensors" for number in range(arguments.runs)]
    equal = sum(one.read_bytes() == other.read_bytes() for one, other in zip(alone, made, strict=True))
    print(f"{arguments.method}, {arguments.runs} runs of {arguments.steps} steps of {arguments.rows} rows:")
    print(f"  {one_after_another:.0f} s one after another, {together:.0f} s together, {equal} adapters byte for byte")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--method", choices=["lora", "qlora"], default="lora")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--rows", type=int, default=4, help="rows of each run in a step")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--commands", action="store_true", help="time whole commands")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (commands if arguments.commands else passes)(arguments, Path(folder))


if __name__ == "__main__":
    main()
