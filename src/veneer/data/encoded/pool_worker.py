"""A process that works for the one that started it (`veneer.data.encoded.worker_pool`), until that has no more for it.

A job comes over a connection, and then what it is done to, a group at a time. What came of each group goes back the
same way, or the error that the job ends with; before it, how far a group is that takes long by itself.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from veneer.data.encoded.worker_pool import Done, SharedJob, send
from veneer.errors import VeneerError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def serve(connection: Connection[Any, Any]) -> None:
    """Do what comes over a connection until it ends."""
    job: SharedJob[Any, Any] = connection.recv()
    do = job.begin(partial(send, connection))
    while True:
        group = connection.recv()
        try:
            found: Done | VeneerError = Done(do(group))
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
