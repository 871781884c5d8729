"""The memory of an evaluation: the most that scoring a base and its adapter on rows needs."""

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
"""Resident memory of an evaluation's process before it loads a model, in addition to `libraries`."""
HEAP_SHARE = 0.4
"""Holes in the heap as a share of the bytes that are allocated and freed, as in the plans of runs
(`veneer.planning.heap_holes`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowLengths:
    """The lengths of rows that determine the memory for scoring them."""

    rows: int
    longest: int
    """The tokens of the longest row."""
    answer: int
    """The tokens of the longest allowed answer."""


def row_lengths(records: Sequence[Record], encoder: Encoder) -> RowLengths:
    """The lengths of rows in the tokens of a model.

    Raises:
        DataError: the chat template refuses rows; all are named.
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
    """The most bytes that an evaluation needs, its process included.

    Args:
        setup: the base in the form in which it is held, with the adapter.
        lengths: the lengths of the rows.
    """
    scored = max(PASS_TOKENS, lengths.longest)
    batch = BatchShape(tokens=scored, longest=lengths.longest + lengths.answer, supervised=scored, sampled=lengths.rows)
    found = memory(setup, batch, recompute=False, start=START + libraries())
    working = int((1 + HEAP_SHARE) * max(found.evaluation, found.sampling))
    return found.runtime + found.base + found.adapters + max(found.loading, working)
