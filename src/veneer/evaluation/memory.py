"""Memory of an evaluation: what scoring a base and its adapter on rows takes at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from veneer.data.encoded.chat import Encoder
from veneer.data.forms.record import Record
from veneer.errors import DataError, listing
from veneer.evaluation.rows import EXTRA_TOKENS
from veneer.evaluation.scoring import PASS_TOKENS
from veneer.planning.batch_shape import BatchShape
from veneer.planning.memory import MB, libraries, memory
from veneer.planning.setup import Setup
from veneer.text.counting import count_of

START = 330 * MB
"""Resident memory of an evaluation's process before it loads a model, beside `libraries`."""
HEAP_SHARE = 0.4
"""Holes in the heap as a share of what is allocated and freed, as plans of runs have it
(`veneer.planning.heap_holes`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowLengths:
    """What of rows decides on the memory of scoring them."""

    rows: int
    longest: int
    """Tokens of the longest row."""
    answer: int
    """Tokens of the longest answer that may be given."""


def row_lengths(records: Sequence[Record], encoder: Encoder) -> RowLengths:
    """The lengths of rows as a model has them.

    Raises:
        DataError: rows that the chat template refuses; all are named.
    """
    longest, answer, problems = 0, 0, []
    for record, trace in zip(records, encoder.traces(records), strict=True):
        if isinstance(trace, DataError):
            problems.append(f"{record.where}: {trace}")
            continue
        longest = max(longest, len(trace.example.tokens))
        answer = max(answer, int(trace.example.loss_mask.sum()))
    if problems:
        raise DataError(f"{len(problems)} of {count_of(len(records), 'row')} cannot be encoded:\n{listing(problems)}")
    return RowLengths(rows=len(records), longest=longest, answer=answer + EXTRA_TOKENS)


def evaluation_bytes(setup: Setup, lengths: RowLengths) -> int:
    """Bytes that an evaluation takes at most, its process included.

    Args:
        setup: the base as it is held, with the adapter.
        lengths: of the rows.
    """
    scored = max(PASS_TOKENS, lengths.longest)
    batch = BatchShape(tokens=scored, longest=lengths.longest + lengths.answer, supervised=scored, sampled=lengths.rows)
    found = memory(setup, batch, recompute=False, start=START + libraries())
    working = int((1 + HEAP_SHARE) * max(found.evaluation, found.sampling))
    return found.runtime + found.base + found.adapters + max(found.loading, working)
