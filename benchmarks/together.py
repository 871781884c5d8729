"""Several adapters trained over one base in one run, beside one after another: seconds a step, in the same process.

    python benchmarks/together.py --model MODEL --method lora --runs 4

Rounds alternate between one run alone and all of them together, so that what else the machine does falls on both. The
runs differ in seed and learning rate, and so in their rows. A step lasts from one end to the next; both the clock and
the processor's own time are given, since other programs lengthen the first. The ratio is that of medians: (runs x a
step alone) / a step of all. What a whole command saves besides (starting, loading, quantising) is not in it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
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
            "save_every": arguments.steps,
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
    alone, together = Steps(), Steps()
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            train(config(arguments, path / "alone", number), subscribers=[alone.follow])
            runs = [prepare(config(arguments, path / str(run), run)) for run in range(arguments.runs)]
            train_together(runs, subscribers=lambda run: [] if run else [together.follow])
        alone.apart()
        together.apart()
    print(f"{arguments.method}, {arguments.runs} runs, {arguments.rows} rows a step, rank {arguments.rank}:")
    for name, one, joint in (("clock", alone.clock, together.clock), ("processor", alone.used, together.used)):
        single, both = statistics.median(one), statistics.median(joint)
        ratio = arguments.runs * single / both
        print(f"  {name}: a step alone {single:.3f} s, of all {both:.3f} s; one after another / together {ratio:.2f}")


class Steps:
    """Times from the end of a step to that of the next."""

    def __init__(self) -> None:
        self.clock: list[float] = []
        self.used: list[float] = []
        self._last: tuple[float, float] | None = None

    def follow(self, event: Event) -> None:
        """Take a step's end."""
        if isinstance(event, StepDone):
            now = (time.perf_counter(), time.process_time())
            if self._last is not None:
                self.clock.append(now[0] - self._last[0])
                self.used.append(now[1] - self._last[1])
            self._last = now

    def apart(self) -> None:
        """The next step is another run's."""
        self._last = None


if __name__ == "__main__":
    main()
