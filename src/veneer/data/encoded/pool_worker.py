"""A process that works for its parent (`veneer.data.encoded.worker_pool`) until the parent has no more work.

A job comes over a connection, followed by the groups of items to process, one at a time. The result of each group goes
back the same way, or the error that ends the job. Before the result comes the progress of a group that alone takes
long.
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
    """Process the requests of a connection until it ends."""
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
    """Serve the process at the other end of a connection, until that process ends or closes the connection.

    Args:
        descriptor: the file descriptor of this end of the connection.
    """
    from multiprocessing.connection import Connection  # Windows has no such connections

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    with suppress(EOFError, BrokenPipeError, ConnectionResetError), Connection(descriptor) as opened:
        serve(opened)
