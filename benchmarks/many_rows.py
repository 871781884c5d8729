"""Memory of a run over very many rows, which are laid into the cache of tokens as they are and not encoded.

    python benchmarks/many_rows.py --model MODEL --rows 1000000 4000000 16000000

Encoding a row keeps nothing of it (`benchmarks/large_data.py` measures that), and takes hours for so many. So rows of
few random tokens are written into the files of the cache, as encoding would have written them, and a whole run reads
them: it finds repeats, orders an epoch, trains a few steps and writes what it has trained. Each run is a process of its
own. What is printed is the largest memory that it had resident, and how many bytes that are for each row beyond those
of the first run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from large_data import bytes_a_row, settings, train, trained_apart

from veneer.data.encoded.encoding import Fate
from veneer.data.encoded.token_cache import token_folder
from veneer.data.encoded.token_store import (
    BLOCK_ENTRIES,
    ENTRY_DTYPE,
    FORMAT_VERSION,
    META_FILE,
    PROBLEMS_FILE,
    ROWS_FILE,
    TOKENS_FILE,
)
from veneer.enums import RowKind
from veneer.io.checkpoint import open_checkpoint
from veneer.io.digests import file_digest

LENGTH = 8
"""Tokens of a row."""
STEPS = 300


def lay(folder: Path, name: str, rows: int, repeated: float) -> None:
    """Write the files of a cache with so many rows, a share of which repeats others; `name` is the file of rows."""
    source = np.random.default_rng(0)
    folder.mkdir(parents=True)
    different = max(1, round(rows * (1 - repeated)))
    with (folder / ROWS_FILE).open("wb") as entries, (folder / TOKENS_FILE).open("wb") as tokens:
        for start in range(0, rows, BLOCK_ENTRIES):
            count = min(BLOCK_ENTRIES, rows - start)
            numbers = start + np.arange(count)
            block = np.zeros(count, dtype=ENTRY_DTYPE)
            block["start"], block["length"], block["given"] = numbers * LENGTH, LENGTH, LENGTH
            block["targets"], block["line"], block["fate"] = LENGTH - 1, numbers + 1, Fate.KEPT.value
            # A different number for each row, in no order.
            block["content"] = (numbers % different + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            block["hash"] = block["content"].view("V8")
            entries.write(block.tobytes())
            ids = source.integers(3, 200, (count, LENGTH), dtype=np.int32)
            ids[:, 1:] |= np.int32(-(1 << 31))
            tokens.write(ids.tobytes())
    (folder / PROBLEMS_FILE).touch()
    files = {
        part: {"bytes": (folder / part).stat().st_size, "sha256": file_digest(folder / part)}
        for part in (TOKENS_FILE, ROWS_FILE, PROBLEMS_FILE)
    }
    meta = {
        "format": FORMAT_VERSION, "files": files, "names": [name], "rows": rows, "entries": rows,
        "tokens": rows * LENGTH, "notes": [], "digest": f"{rows:032}",
    }  # fmt: skip
    (folder / META_FILE).write_text(json.dumps(meta))


def main() -> None:
    """Measure each size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the base model, a tiny one")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 4_000_000], help="numbers of rows")
    parser.add_argument("--repeated", type=float, default=0.0, help="share of the rows that repeat others")
    parser.add_argument("--set", action="append", default=[], dest="assignments", help="a setting of the runs")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        train(settings(given.model, given.one, given.assignments, STEPS))
        return
    print("| rows | peak memory, MB | bytes a row beyond the first | processor time, s |\n|---|---|---|---|")
    first: tuple[int, float] | None = None
    for rows in given.rows:
        with TemporaryDirectory() as name:
            data = Path(name) / "rows.jsonl"
            data.write_text('{"text": "a row"}\n')
            config = settings(given.model, data, given.assignments, STEPS)
            where = token_folder([data], config.data, open_checkpoint(given.model).tokenizer(), RowKind.ANSWERS)
            lay(where, str(data), rows, given.repeated)
            found = trained_apart(__file__, given.model, data, given.assignments)
        peak = found["peak"]
        first = first or (rows, peak)
        each = bytes_a_row(rows, peak, first)
        print(f"| {rows:,} | {peak / 1e6:,.0f} | {each} | {found['seconds']:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
