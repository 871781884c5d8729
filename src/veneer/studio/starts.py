"""The size of a run's process before it loads its model, for plans that the studio makes in a process of its own."""

from __future__ import annotations

import subprocess
from functools import cache

from veneer.data.encoded.token_store import StoredExamples
from veneer.data.rows import Examples, Rows
from veneer.planning.memory import MB, TYPICAL_START, libraries
from veneer.runtime.own_module import command_of

SECONDS = 120.0
"""Seconds that measuring may take; it takes about three."""
ROOM = 12 * MB
"""Resident memory that a run's process has beyond what is measured: the rows as they were read, before they were
encoded, and messages (2 to 10 MB were measured on small files)."""
UNMEASURED = 65 * MB
"""What is taken beside `TYPICAL_START` where nothing can be measured: imports and a tokenizer of 50,000 tokens."""
EXAMPLE, STORED_EXAMPLE = 1000, 16
"""Bytes of an encoded row beside its tokens, and of one that is kept on the disk. On 40,000 rows of 168 tokens the
process of a run grew by 101 MB, of which their tokens and masks are 34."""
HEAP = 2
"""Bytes of the process for a byte of tokens and masks, whose lists were larger while they were made (as measured)."""


def run_start(model: str, rows: Rows) -> int:
    """The resident bytes of the process of a run when it plans.

    Args:
        model: the base, as a directory, a GGUF file or a hub id.
        rows: the rows of the run, which it holds then.
    """
    try:
        start = _measured(model)
    except (subprocess.SubprocessError, OSError, ValueError):
        # Whoever has killed it, or has no room for it: the plan is made all the same, and it is measured the next time.
        start = TYPICAL_START + libraries() + UNMEASURED
    return start + ROOM + _held(rows.train) + _held(rows.eval) + EXAMPLE * len(rows.prompts)


@cache
def _measured(model: str) -> int:
    """What a process says of itself that has begun as a run does."""
    command = [*command_of("veneer.screens.start_size"), model]
    # In a session of its own: the terminal's Ctrl-C is the studio's business.
    done = subprocess.run(
        command, capture_output=True, check=True, timeout=SECONDS, stdin=subprocess.DEVNULL, start_new_session=True
    )
    return int(done.stdout.split()[-1])


def _held(examples: Examples) -> int:
    if isinstance(examples, StoredExamples):
        return STORED_EXAMPLE * len(examples)
    return sum(EXAMPLE + HEAP * (one.tokens.nbytes + one.loss_mask.nbytes) for one in examples)
