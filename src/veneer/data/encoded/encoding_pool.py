"""Rows are encoded by several processes, and come back in their order: what comes of each is what one process makes."""

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
"""Rows of a group at most, which are sent together."""


@dataclass(frozen=True, slots=True)
class EncodedGroup:
    """What came of some rows."""

    rows: Sequence[EncodedRow]
    told: Mapping[str, Told]
    """What checks have found in them and not refused."""


@dataclass(frozen=True, slots=True)
class EncodingJob:
    """How rows are encoded."""

    tokenizer: Tokenizer
    max_length: int | None
    overlong: Overlong
    checks: tuple[Check, ...]
    """The rules under which a row is refused."""

    does: ClassVar[str] = "encodes rows"
    remedy: ClassVar[str] = "the same command starts again"

    def begin(self, tell: Subscriber) -> Callable[[Sequence[Record]], EncodedGroup]:
        """What encodes rows in a process, in groups.

        Args:
            tell: told how far a row is that takes long by itself.
        """
        encoder, audit = encoder_of(self.tokenizer, tell), RowAudit(self.tokenizer, self.checks)

        def encoded(records: Sequence[Record]) -> EncodedGroup:
            each = encode_each(records, encoder, max_length=self.max_length, overlong=self.overlong, audit=audit)
            return EncodedGroup(list(each), audit.taken())

        return encoded


def encode_in_processes(
    records: Iterable[Record], job: EncodingJob, audit: RowAudit, processes: int, emit: Subscriber
) -> Iterator[EncodedRow]:
    """Encode records in several processes as they are asked for: what came of each, in order.

    Args:
        records: the rows.
        job: how they are encoded.
        audit: gets what the checks find and do not refuse.
        processes: their number.
        emit: told how far the next row is that takes long by itself.

    Raises:
        DataError: as `veneer.data.encoded.encoding.encode_each`, or a process has ended.
    """
    for found in shared_out(record_groups(records, GROUP_ROWS), job, processes, emit):
        audit.join(found.told)
        yield from found.rows
