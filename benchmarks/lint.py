"""Time and memory of `veneer data` over files of rows of about 200 tokens.

    python benchmarks/lint.py --model MODEL --rows 200000 1000000

Rows are conversations of English words, in the frequency that Python's own help texts have, so that a tokenizer meets
what it meets in use; one row in a hundred has a fault or repeats another. What is printed is the time on the clock, the
processor time of all processes, and the largest memory that all of them had resident together, shared pages counted in
each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory

WORDS = 150
"""Words of a row, about 200 tokens."""
SAMPLED = 0.5
"""Seconds between two looks at the memory."""


def write(path: Path, rows: int) -> None:
    """Write a file of so many rows."""
    source = random.Random(0)
    before = "", ""
    words = [word for text in topics.values() for word in text.split() if word.isalpha()]
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            question, answer = " ".join(source.choices(words, k=40)), " ".join(source.choices(words, k=WORDS - 40))
            fault = source.random()
            if fault < 0.002:
                answer = ""
            elif fault < 0.004:
                answer += " caf\u00c3\u00a9"
            elif fault < 0.006:
                answer += f" write to {question.split()[0]}{number}@post.net"
            elif fault < 0.01 and number:
                question, answer = before
            before = question, answer
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")


def resident(root: int) -> int:
    """Bytes of memory of a process and its descendants."""
    children: dict[int, list[int]] = {}
    pages: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended meanwhile
            children.setdefault(int(stat[1]), []).append(int(entry.name))
            pages[int(entry.name)] = int(stat[21])
    found, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        found += pages.get(process, 0)
        waiting += children.get(process, [])
    return found * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure each size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="the model whose tokenizer and template are used; none by default")
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 200_000], help="sizes of the files")
    parser.add_argument("--processes", type=int, default=2, help="processes that check rows")
    given = parser.parse_args()
    print("| rows | MB | minutes | processor minutes | memory of all processes, MB |\n|---|---|---|---|---|")
    for rows in given.rows:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "rows.jsonl"
            write(file, rows)
            command = [sys.executable, "-m", "veneer", "data", str(file), "--processes", str(given.processes)]
            command += ["--model", given.model] if given.model else []
            before, begun, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), 0
            with (Path(folder) / "said").open("wb") as said:
                process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
                while process.poll() is None:
                    peak = max(peak, resident(process.pid))
                    time.sleep(SAMPLED)
            seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
            if process.returncode not in (0, 1):
                raise SystemExit((Path(folder) / "said").read_text())
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            size = file.stat().st_size / 1e6
            print(f"| {rows:,} | {size:,.0f} | {seconds / 60:.1f} | {used / 60:.1f} | {peak / 1e6:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
