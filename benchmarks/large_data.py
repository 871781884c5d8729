"""Memory and time of runs whose rows are kept on the disk, for files of several sizes.

    python benchmarks/large_data.py --model MODEL --megabytes 10 100 1000

Each run is a process of its own: it encodes the file into the cache and trains a few steps of continued pretraining.
What is printed is the largest memory that the process had resident, beyond that of the smallest file.
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

WORDS = ("the", "parcel", "crate", "of", "blue", "late", "arrives", "was", "sent", "on", "Monday", "costs", "24.50")
STEPS = 5


def write(path: Path, megabytes: int, kind: str) -> int:
    """Write a file of rows, and return how many there are."""
    source = random.Random(0)
    rows = written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < megabytes * 1_000_000:
            text = " ".join(source.choices(WORDS, k=100)) + f" {rows}"
            chat = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]}
            written += file.write(json.dumps({"text": text} if kind == "text" else chat) + "\n")
            rows += 1
    return rows


def train(model: str, data: Path, folder: Path) -> None:
    """Train a few steps in this process, and print what it took."""
    from veneer.config import parse
    from veneer.training.run import train as run

    begun = time.process_time()
    settings = {
        "model": model,
        "output": str(folder / data.stem),
        "data": {"file": str(data), "cache": "always", "cache_dir": str(folder / "cache")},
        "train": {"steps": STEPS, "learning_rate": 1e-4},
        "compute": {"threads": 1},
    }
    run(parse(settings, where="the benchmark"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "seconds": time.process_time() - begun}))


def main() -> None:
    """Measure each size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the base model")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100, 1000], help="sizes of the files")
    parser.add_argument("--kind", choices=("text", "chat"), default="text", help="what a row is")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        train(given.model, given.one, given.one.parent)
        return
    print("| MB | rows | peak memory, MB | beyond the first | processor time, s |\n|---|---|---|---|---|")
    first = 0.0
    for megabytes in given.megabytes:
        with TemporaryDirectory() as folder:
            data = Path(folder) / "rows.jsonl"
            rows = write(data, megabytes, given.kind)
            command = [sys.executable, __file__, "--model", given.model, "--one", str(data)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        peak = found["peak"] / 1e6
        first = first or peak
        print(f"| {megabytes:,} | {rows:,} | {peak:,.0f} | {peak - first:,.0f} | {found['seconds']:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
