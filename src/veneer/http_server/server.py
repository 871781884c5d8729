"""A server that runs next to the program: a socket, an event loop on its own thread, and the shutdown."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import threading
import time
from types import TracebackType
from typing import Protocol, Self

import uvicorn
from starlette.types import ASGIApp

from veneer.errors import ConfigError, OutputError
from veneer.http_server.connection import bounded
from veneer.http_server.limits import ServerLimits

WAITING_CONNECTIONS = 1024
"""Connections that wait in the system until they are accepted."""
CLOSE_SECONDS = 5
"""The least seconds for closing connections, once all requests have ended or were cancelled."""


class Served(Protocol):
    """The service behind a server's routes, as far as the shutdown needs it."""

    draining: bool
    """Whether no further requests are accepted."""

    @property
    def limits(self) -> ServerLimits:
        """The limits for clients."""
        ...

    @property
    def accepting(self) -> bool:
        """Whether everything that requests need still works."""
        ...

    def drain(self, seconds: float) -> bool:
        """Wait until the running requests have ended, but no longer than this many seconds. Returns whether all
        have."""
        ...

    def close(self) -> None:
        """End all requests that are still running."""
        ...


class _ClosingServer(uvicorn.Server):
    """uvicorn's server, which leaves no connection open when it ends."""

    cut_off = 0
    """The number of connections whose clients had not taken all that was written for them in time."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.shutdown`."""
        await super().shutdown(sockets=sockets)
        left = list(self.server_state.connections)
        self.cut_off = len(left)
        for connection in left:
            connection.transport.abort()
        await asyncio.sleep(0)  # they are closed in the loop's next round


class HttpServer:
    """Serves from `start` on; a context manager, which starts and stops it.

    Args:
        app: the application.
        service: the service behind it, which is closed with the server.
        with_key: whether it asks for a key.
        host: the name or address to listen on.
        port: the port; 0 chooses a free one.

    Raises:
        ConfigError: the server would be open to other machines without a key.
        OutputError: the address cannot be listened on.
    """

    def __init__(
        self, app: ASGIApp, service: Served, *, with_key: bool = False, host: str = "127.0.0.1", port: int = 0
    ):
        self._service = service
        check_host(host, with_key=with_key)
        self._socket = _listen(host, port)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        limits = service.limits
        logging.getLogger("uvicorn.error").addFilter(_says_nothing_of_requests)
        logging.getLogger("asyncio").addFilter(_says_nothing_of_vanished_clients)
        config = uvicorn.Config(
            app,
            http=bounded(limits),
            ws="none",
            lifespan="off",
            loop="asyncio",
            interface="asgi3",
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=limits.header_bytes + 4096,
            timeout_keep_alive=int(limits.idle_seconds),
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
        self._server = _ClosingServer(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="veneer-http")

    @property
    def url(self) -> str:
        """The server's address."""
        host = "127.0.0.1" if self.host == "0.0.0.0" else "::1" if self.host == "::" else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def start(self) -> None:
        """Serve; returns as soon as requests are accepted."""
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)

    @property
    def alive(self) -> bool:
        """Whether it serves, and its engine has not failed."""
        return self._thread.is_alive() and (self._service.draining or self._service.accepting)

    def stop(self, drain_seconds: float | None = None) -> bool:
        """Accept no further requests, let the running ones end and their clients read the answers, and close.

        Args:
            drain_seconds: how long that may take; None means the limit of the service.

        Returns:
            Whether all of them ended and their answers were read; the others were cancelled.
        """
        service = self._service
        service.draining = True
        seconds = service.limits.drain_seconds if drain_seconds is None else drain_seconds
        end = time.monotonic() + seconds
        ended = service.drain(seconds)
        # The loop still runs, so that the events of the end reach those who wait for them.
        service.close()
        # A whole answer is written after its request has ended. uvicorn waits until every connection is closed, which
        # each is as soon as its client has taken what was written.
        self._server.config.timeout_graceful_shutdown = max(CLOSE_SECONDS, math.ceil(end - time.monotonic()))
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()
        return ended and not self._server.cut_off

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def is_loopback(host: str) -> bool:
    """Whether an address can be reached only from this machine."""
    addresses = _addresses(host)
    return bool(addresses) and all(address.startswith("127.") or address == "::1" for address in addresses)


def check_host(host: str, *, with_key: bool) -> None:
    """Raise ConfigError if other machines could reach a server that asks for no key."""
    if with_key or is_loopback(host):
        return
    if host and not _addresses(host):
        raise ConfigError(
            f"--host {host}: is neither an address nor a name that this machine knows; give an address such as "
            "127.0.0.1 or ::1, without brackets, and the port by --port"
        )
    raise ConfigError(
        f"--host {host}: other machines could reach it, and it would answer anybody; give --key-file FILE, or leave "
        "--host out so that only this machine can reach it"
    )


def _addresses(host: str) -> set[str]:
    """The addresses of a name; none if it has none, or cannot be a name."""
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError):  # Python encodes names itself: a label may be too long for that
        return set()
    return {str(entry[4][0]) for entry in entries}


def check_free(host: str, port: int) -> None:
    """Raise OutputError if an address cannot be listened on. Callers that load for minutes before `HttpServer` call
    this first."""
    _listen(host, port).close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=WAITING_CONNECTIONS)
    except (OSError, OverflowError, ValueError) as error:
        raise OutputError(
            f"{host}, port {port}: cannot be listened on: {error}; give another --host or --port"
        ) from error


def _says_nothing_of_requests(record: logging.LogRecord) -> bool:
    """uvicorn prints the traceback of an error whose message may hold what a user wrote; `build_app` has logged it."""
    return record.exc_info is None and record.levelno >= logging.ERROR


def _says_nothing_of_vanished_clients(record: logging.LogRecord) -> bool:
    """asyncio warns of each piece that is written to a client that is gone, until the server learns that it is gone."""
    return record.msg != "socket.send() raised exception."
