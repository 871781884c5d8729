"""The limits of what a client may use of the server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerLimits:
    """Limits that are the same for every client."""

    body_bytes: int = 10_000_000
    """The largest body of a request."""
    header_bytes: int = 32_768
    """The most bytes of a request's first line and headers together."""
    read_seconds: float = 10.0
    """Seconds in which a client must have sent its headers, and again its body."""
    write_seconds: float = 20.0
    """Seconds after which a connection is closed whose client does not read what is sent to it."""
    idle_seconds: float = 10.0
    """Seconds that a connection may stay open between two requests."""
    connections: int = 1024
    """The most open connections; further ones are closed at once."""
    sequences: int = 256
    """Answers that may be computed or wait at a time; beyond them a request gets 429."""
    choices: int = 128
    """Answers that one request may ask for: its `n` times its prompts."""
    scores: int = 2_000_000
    """Log-probabilities of prompts' tokens that one answer may hold, with those of the alternatives, in all of its
    choices. One prompt of the model's context may always be scored."""
    request_seconds: float = 600.0
    """The time limit of a request, in seconds."""
    drain_seconds: float = 30.0
    """The seconds that running requests get when the server is asked to stop."""
    schema_bytes: int = 65_536
    """The largest JSON schema of an answer or of a request's tools."""
    schema_seconds: float = 10.0
    """Seconds that such a schema may take to be prepared: one of many patterns that must hold at once takes minutes."""
    schemas: int = 2
    """The schemas that are prepared at a time; a further one waits as long as preparing it may take, and is then
    refused."""
