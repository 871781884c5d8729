"""Rows are encoded by several processes and come back in order; the results are those of a single process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from veneer.data.encoded.encoding import EncodedRow, encode_each, encoder_of
from veneer.data.encoded.record_groups import record_groups
from veneer.data.encoded.worker_pool import shared_out
from veneer.data.forms.record import Record
from veneer.data.lint.audit import RowAudit, Told
from veneer.enums import Check, Overlong
from veneer.events import Subscriber
from veneer.io.tokenizer import Tokenizer

GROUP_ROWS = 256
"""The most rows of a group, which are sent together."""


@dataclass(frozen=True, slots=True)
class EncodedGroup:
    """The results of some rows."""

    rows: Sequence[EncodedRow]
    told: Mapping[str, Told]
    """The findings of checks in these rows that were not refused."""


@dataclass(frozen=True, slots=True)
class EncodingJob:
    """The way in which rows are encoded."""

    tokenizer: Tokenizer
    max_length: int | None
    overlong: Overlong
    checks: tuple[Check, ...]
    """The rules under which a row is refused."""

    does: ClassVar[str] = "encodes rows"
    remedy: ClassVar[str] = "the same command starts again"

    def begin(self, tell: Subscriber) -> Callable[[Sequence[Record]], EncodedGroup]:
        """The function that encodes groups of rows in a process.

        Args:
            tell: gets the progress of a row that alone takes long.
        """
        encoder, audit = encoder_of(self.tokenizer, tell), RowAudit(self.tokenizer, self.checks)

        def encoded(records: Sequence[Record]) -> EncodedGroup:
            each = encode_each(records, encoder, max_length=self.max_length, overlong=self.overlong, audit=audit)
            return EncodedGroup(list(each), audit.taken())

        return encoded


def encode_in_processes(
    records: Iterable[Record], job: EncodingJob, audit: RowAudit, processes: int, emit: Subscriber
) -> Iterator[EncodedRow]:
    """Encode records in several processes as they are requested; yields the result of each, in order.

    Args:
        records: the rows.
        job: the way in which they are encoded.
        audit: gets the findings of the checks that refuse no row.
        processes: the number of processes.
        emit: receives the progress of the next row if it alone takes long.

    Raises:
        DataError: see `veneer.data.encoded.encoding.encode_each`; or a process has ended.
    """
    for found in shared_out(record_groups(records, GROUP_ROWS), job, processes, emit):
        audit.join(found.told)
        yield from found.rows
