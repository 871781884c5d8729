"""The memory of a run's process before it loads its model. The studio plans runs without starting their processes."""

from __future__ import annotations

import subprocess
from functools import cache

from veneer.data.encoded.token_store import StoredExamples
from veneer.data.rows import Examples, Rows
from veneer.planning.memory import MB, TYPICAL_START, libraries
from veneer.runtime.own_module import command_of

MEASURE_SECONDS = 120.0
"""The time limit for measuring, which takes about three seconds."""
MARGIN_BYTES = 12 * MB
"""Resident memory of a run's process beyond the measured start: messages, and the rows before they are encoded (2 to
10 MB were measured on small files)."""
UNMEASURED_BYTES = 65 * MB
"""Bytes that are added to `TYPICAL_START` if nothing can be measured: imports and a tokenizer of 50,000 tokens."""
ROW_BYTES, STORED_ROW_BYTES = 1000, 16
"""Bytes of an encoded row in addition to its tokens, and bytes of a row that is kept on the disk. On 40,000 rows of 168
tokens, the process of a run grew by 101 MB, of which tokens and masks are 34 MB."""
HEAP_FACTOR = 2
"""Bytes of the process for each byte of tokens and masks (measured): their lists are larger while they are built."""


def run_process_bytes(model: str, rows: Rows) -> int:
    """The resident bytes of a run's process at the time when it makes its plan.

    Args:
        model: the base, as a directory, a GGUF file or a hub id.
        rows: the rows of the run, which its process holds at that time.
    """
    try:
        start = _measured(model)
    except (subprocess.SubprocessError, OSError, ValueError):
        # The process was killed or could not start. The plan is made nevertheless, and the next one measures again.
        start = TYPICAL_START + libraries() + UNMEASURED_BYTES
    return start + MARGIN_BYTES + _held(rows.train) + _held(rows.eval) + ROW_BYTES * len(rows.prompts)


@cache
def _measured(model: str) -> int:
    """The resident bytes that a process reports after starting as a run does."""
    command = [*command_of("veneer.screens.start_size"), model]
    # The process gets its own session, so that the terminal's Ctrl-C reaches only the studio.
    done = subprocess.run(
        command,
        capture_output=True,
        check=True,
        timeout=MEASURE_SECONDS,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    return int(done.stdout.split()[-1])


def _held(examples: Examples) -> int:
    if isinstance(examples, StoredExamples):
        return STORED_ROW_BYTES * len(examples)
    return sum(ROW_BYTES + HEAP_FACTOR * (one.tokens.nbytes + one.loss_mask.nbytes) for one in examples)
