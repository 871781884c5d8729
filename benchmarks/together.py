"""Several adapters trained over one base in one run, beside one after another: seconds a step, in the same process.

    python benchmarks/together.py --model MODEL --method lora --runs 4

Rounds alternate between one run alone and all of them together, so that what else the machine does falls on both. The
runs differ in seed and learning rate, and so in their rows. The ratio is that of medians: (runs x a step alone) / a
step of all.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from veneer.config import RunConfig, parse
from veneer.events import Event, StepDone
from veneer.training.many import prepare, train_together
from veneer.training.run import train

DATA = Path(__file__).parents[1] / "examples" / "claims" / "train.jsonl"


def config(arguments: argparse.Namespace, output: Path, number: int) -> RunConfig:
    """The run of a number."""
    values = {
        "model": arguments.model,
        "output": str(output),
        "method": arguments.method,
        "data": {"file": str(DATA)},
        "lora": {"rank": arguments.rank, "alpha": 2.0 * arguments.rank},
        "train": {
            "steps": arguments.steps,
            "examples_per_step": arguments.rows,
            "seed": number,
            "learning_rate": 1e-4 * (number + 1),
        },
    }
    return parse(values, where="the benchmark")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--method", choices=["lora", "qlora"], default="lora")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--rows", type=int, default=4, help="rows of each run in a step")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    alone: list[float] = []
    together: list[float] = []

    def into(times: list[float], event: Event) -> None:
        if isinstance(event, StepDone):
            times.append(event.seconds)

    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            train(config(arguments, path / "alone", number), subscribers=[lambda event: into(alone, event)])
            runs = [prepare(config(arguments, path / str(run), run)) for run in range(arguments.runs)]
            train_together(runs, subscribers=lambda run: [lambda event: into(together, event)])
    one, all_of_them = statistics.median(alone), statistics.median(together) * arguments.runs
    print(f"{arguments.method}, {arguments.runs} runs, {arguments.rows} rows a step, rank {arguments.rank}:")
    print(f"  a step alone {one:.3f} s, a step of all {all_of_them:.3f} s")
    print(f"  one after another / together: {arguments.runs * one / all_of_them:.2f}")


if __name__ == "__main__":
    main()
