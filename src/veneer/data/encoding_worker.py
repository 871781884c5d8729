"""A process that encodes rows for the one that started it (`veneer.data.encoding_pool`), until that has no more.

A job comes over a connection, and then rows, a group at a time. What came of each group goes back the same way, or the
error that the job ends with; before it, how far a row is that takes long by itself.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from veneer.data.encoding import encode_each, encoder_of
from veneer.data.encoding_pool import EncodedGroup, EncodingJob, send
from veneer.data.lint.audit import RowAudit
from veneer.data.records import Record
from veneer.errors import VeneerError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def serve(connection: Connection[Any, Any]) -> None:
    """Encode what comes over a connection until it ends."""
    job: EncodingJob = connection.recv()
    encoder, audit = encoder_of(job.tokenizer, partial(send, connection)), RowAudit(job.tokenizer, job.checks)
    while True:
        records: list[Record] = connection.recv()
        each = encode_each(records, encoder, max_length=job.max_length, overlong=job.overlong, audit=audit)
        try:
            found: EncodedGroup | VeneerError = EncodedGroup(list(each), audit.taken())
        except VeneerError as error:
            found = error
        send(connection, found)


def main(descriptor: int) -> None:
    """Serve the process at the other end of a connection, until it ends the connection or itself.

    Args:
        descriptor: the file descriptor of this end.
    """
    from multiprocessing.connection import Connection  # Windows has no such connections

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the business of the process that started this one
    with suppress(EOFError, BrokenPipeError, ConnectionResetError), Connection(descriptor) as opened:
        serve(opened)
