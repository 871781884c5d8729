"""A connection that slow clients cannot occupy: protection that uvicorn leaves to a proxy in front of it.

- Headers that are larger than the limit get 431 before anything of them is parsed.
- Headers must come in time, also those of a second request, and so must the rest of a body that nobody reads any more.
- A client that does not read what is sent to it is disconnected.
- Connections beyond the limit are closed at once.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from veneer.http_server.errors import ApiError, json_bytes
from veneer.http_server.limits import ServerLimits

_END_OF_HEADERS = re.compile(rb"\n\r?\n")


class BoundedConnection(H11Protocol):
    """uvicorn's connection with `limits`, which `bounded` sets."""

    limits: ServerLimits

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.BaseProtocol.connection_made`."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.abort()
            return
        self._expect_data()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol.connection_lost`."""
        self._stop_reading_timer()
        self._stop_writing_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol.data_received`."""
        if self.conn.their_state is h11.IDLE and self._too_large(data):
            self._refuse()
            return
        super().data_received(data)
        theirs, ours = self.conn.their_state, self.conn.our_state
        in_headers = theirs is h11.IDLE and bool(self.conn.trailing_data[0])
        unread_body = theirs is h11.SEND_BODY and ours in (h11.DONE, h11.MUST_CLOSE)
        if in_headers or unread_body:
            self._expect_data()
        else:
            self._stop_reading_timer()

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol.pause_writing`: the client reads more slowly than data is sent."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol.resume_writing`."""
        self._stop_writing_timer()
        super().resume_writing()

    def _expect_data(self) -> None:
        """Close the connection if the client does not send the rest in time."""
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(self.limits.read_seconds, self.transport.abort)

    def _stop_reading_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _stop_writing_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _too_large(self, data: bytes) -> bool:
        """Whether more bytes than allowed have come, and the headers do not end within the limit."""
        most = self.limits.header_bytes
        head = self.conn.trailing_data[0] + data
        return len(head) > most and _END_OF_HEADERS.search(head, 0, most) is None

    def _refuse(self) -> None:
        error = ApiError(
            431, f"the headers have more than {self.limits.header_bytes:,} bytes, the most that are accepted"
        )
        body = json_bytes(error.content)
        head = (
            "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def bounded(limits: ServerLimits) -> type[BoundedConnection]:
    """The class of connections with these limits; uvicorn makes its connections by a class of four arguments."""
    return type("Connection", (BoundedConnection,), {"limits": limits})
