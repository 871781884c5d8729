"""What several processes gain where rows are encoded into the cache of tokens.

    python benchmarks/encoding.py --model MODEL --megabytes 5

The same rows are encoded by one process and by several, in turns. What is printed for each kind of rows is the median
time of either, and their ratio. Reading and writing, which the first process does beside the others, are not timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from large_data import write

from veneer.config import DataSection
from veneer.data.encoded.encoding import EncodedRow, encode_each, encoder_of
from veneer.data.encoded.encoding_pool import EncodingJob, encode_in_processes
from veneer.data.forms.record import Record
from veneer.data.lint.audit import RowAudit
from veneer.data.records import read_records
from veneer.events import ignore
from veneer.io.checkpoint import open_checkpoint
from veneer.io.tokenizer import Tokenizer
from veneer.machine.system import available_cores

DATA = DataSection(file="-", max_length=4096)
WORDS_A_ROW = 20


def encoded(records: list[Record], tokenizer: Tokenizer, processes: int) -> Iterator[EncodedRow]:
    """What comes of each row, as the cache of tokens gets it."""
    audit = RowAudit(tokenizer, DATA.checks)
    if processes == 1:
        encoder = encoder_of(tokenizer)
        return encode_each(records, encoder, max_length=DATA.max_length, overlong=DATA.overlong, audit=audit)
    job = EncodingJob(tokenizer, DATA.max_length, DATA.overlong, tuple(DATA.checks))
    return encode_in_processes(records, job, audit, processes, ignore)


def seconds(records: list[Record], tokenizer: Tokenizer, processes: int) -> float:
    """Seconds that the rows take, with the start of the processes."""
    begun = time.perf_counter()
    for _ in encoded(records, tokenizer, processes):
        pass
    return time.perf_counter() - begun


def main() -> None:
    """Time both kinds of rows and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the model whose tokenizer and template encode")
    parser.add_argument("--megabytes", type=int, default=20, help="size of each file of rows")
    parser.add_argument("--processes", type=int, default=available_cores(), help="processes beside the first")
    parser.add_argument("--repetitions", type=int, default=3)
    given = parser.parse_args()
    tokenizer = open_checkpoint(given.model).tokenizer()
    print(f"| rows | MB | 1 process, s | {given.processes} processes, s | ratio |\n|---|---|---|---|---|")
    for kind in ("text", "chat"):
        with TemporaryDirectory() as folder:
            file = Path(folder) / "rows.jsonl"
            write(file, given.megabytes, "MB", kind, WORDS_A_ROW)
            records = read_records(file)
        times: dict[int, list[float]] = {1: [], given.processes: []}
        for _ in range(given.repetitions):
            for processes, own in times.items():
                own.append(seconds(records, tokenizer, processes))
        one, several = (statistics.median(own) for own in times.values())
        print(f"| {kind} | {given.megabytes} | {one:.1f} | {several:.1f} | {one / several:.2f} |", flush=True)


if __name__ == "__main__":
    main()
