"""Memory and time of runs whose rows are kept on the disk, for files of several sizes.

    python benchmarks/large_data.py --model MODEL --megabytes 10 100 1000
    python benchmarks/large_data.py --model MODEL --rows 1000000 3000000 --words 4 --set data.held_out=0.0001

Each run is a process of its own: it encodes the file into the cache and trains a few steps. What is printed is the
largest memory that the process had resident, beyond that of the smallest file, and how many bytes that are for each
further row; those of the processes that encode beside it, the largest of them; and the processor time of all.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from veneer.config import RunConfig

WORDS = ("the", "parcel", "crate", "of", "blue", "late", "arrives", "was", "sent", "on", "Monday", "costs", "24.50")
STEPS = 5


def write(path: Path, size: float, unit: str, kind: str, words: int) -> tuple[int, float]:
    """Write a file of so many rows or megabytes, and return how many of both there are."""
    source = random.Random(0)
    rows = written = 0
    with path.open("w", encoding="utf-8") as file:
        while (rows if unit == "rows" else written / 1e6) < size:
            text = " ".join(source.choices(WORDS, k=words)) + f" {rows}"
            chat = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]}
            written += file.write(json.dumps({"text": text} if kind == "text" else chat) + "\n")
            rows += 1
    return rows, written / 1e6


def settings(model: str, data: Path, assignments: list[str], steps: int) -> RunConfig:
    """A run of some steps over a file of rows; it and the cache are beside the file."""
    from veneer.config import parse
    from veneer.config.values import override

    values = {
        "model": model,
        "output": str(data.with_suffix("")),
        "data": {"file": str(data), "cache": "always", "cache_dir": str(data.parent / "cache")},
        "train": {"steps": steps, "learning_rate": 1e-4},
        "compute": {"threads": 1},
    }
    return parse(override(values, assignments), where="the benchmark")


def train(config: RunConfig) -> None:
    """Train in this process, and print what it took."""
    from veneer.training.run import train as run

    begun = time.process_time()
    run(config)
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.process_time() - begun + others.ru_utime + others.ru_stime
    print(json.dumps({"peak": own.ru_maxrss * 1024, "others": others.ru_maxrss * 1024, "seconds": seconds}))


def trained_apart(script: str, model: str, data: Path, assignments: list[str]) -> dict[str, float]:
    """What a run took in a process of its own, by a script that takes `--one`."""
    command = [sys.executable, script, "--model", model, "--one", str(data)]
    command += [part for one in assignments for part in ("--set", one)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def bytes_a_row(rows: int, peak: float, first: tuple[int, float]) -> str:
    """Bytes of each row beyond those of the first run."""
    return f"{(peak - first[1]) / (rows - first[0]):.1f}" if rows > first[0] else "–"


def main() -> None:
    """Measure each size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the base model")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--megabytes", type=float, nargs="+", default=[10, 100, 1000], help="sizes of the files")
    size.add_argument("--rows", type=int, nargs="+", help="sizes of the files, as numbers of rows")
    parser.add_argument("--words", type=int, default=100, help="words of a row's text")
    parser.add_argument("--kind", choices=("text", "chat"), default="text", help="what a row is")
    parser.add_argument("--set", action="append", default=[], dest="assignments", help="a setting of the runs")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        train(settings(given.model, given.one, given.assignments, STEPS))
        return
    print("| MB | rows | peak memory, MB | beyond the first | bytes a row | another process | processor time, s |")
    print("|---|---|---|---|---|---|---|")
    first: tuple[int, float] | None = None
    unit = "megabytes" if given.rows is None else "rows"
    for size in given.megabytes if given.rows is None else given.rows:
        with TemporaryDirectory() as folder:
            data = Path(folder) / "rows.jsonl"
            rows, megabytes = write(data, size, unit, given.kind, given.words)
            found = trained_apart(__file__, given.model, data, given.assignments)
        peak = found["peak"]
        first = first or (rows, peak)
        each = bytes_a_row(rows, peak, first)
        sizes = f"{megabytes:,.0f} | {rows:,} | {peak / 1e6:,.0f} | {(peak - first[1]) / 1e6:,.0f}"
        print(f"| {sizes} | {each} | {found['others'] / 1e6:,.0f} | {found['seconds']:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
