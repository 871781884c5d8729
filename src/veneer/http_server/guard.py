"""The gate in front of every route: the request's id, `Host`, `Origin` and the key, in this order.

- `Host`: a web page can make its own name mean 127.0.0.1 (DNS rebinding) and would then talk to a local server as its
  own. So the name must be one that the server knows; a page cannot forge an address.
- `Origin`: browsers send it where a page of another site calls. It is checked for every method.
- The key: every path but `/health` needs it, also one that does not exist.

A page of an allowed origin gets CORS headers. Before its browser sends JSON or a key, it sends a preflight request
without the key, and it gives the page only answers that name the page's origin.
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from veneer.http_server.errors import ApiError
from veneer.http_server.fields import IGNORED_HEADER
from veneer.http_server.keys import Keys
from veneer.http_server.target import by_path

OPEN_PATHS = frozenset({"/health"})
"""Paths that need no key."""
REQUEST_ID_HEADER = "x-request-id"
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_READABLE = f"{REQUEST_ID_HEADER}, {IGNORED_HEADER}, retry-after"
"""Headers of answers that a page of another site may read."""
_CHALLENGE = {"www-authenticate": 'Basic realm="veneer", charset="UTF-8"'}


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """Who may talk to the server."""

    hosts: frozenset[str] = frozenset()
    """Names that clients call the server by, besides `localhost` and addresses, in lower case."""
    origins: frozenset[str] = frozenset()
    """Origins of web pages of other sites that may call it, as browsers write them."""
    keys: Keys | None = None
    """Keys of the routes; None requires no key."""
    admin_keys: Keys | None = None
    """Keys of the routes that manage adapters; without them there are no such routes."""
    admin_routes: tuple[Route, ...] = ()
    """The routes that need a key of `admin_keys`."""

    def check(self, scope: Scope, headers: Headers, *, preflight: bool = False) -> None:
        """Raise ApiError for a request that must not be let in.

        Args:
            scope: the request's scope.
            headers: the request's headers.
            preflight: whether it is a preflight request (`is_preflight`), which has no key.
        """
        host = headers.get("host", "")
        if not host:
            # HTTP/1.0 knows requests without one, such as checks of a load balancer.
            raise ApiError(
                403,
                "the request has no header host, or an empty one; send host: localhost, or an address or name of the "
                "server",
                code="host_not_allowed",
            )
        name = _name_of(host)
        if name is None or not (name == "localhost" or name in self.hosts or _is_address(name)):
            raise ApiError(
                403,
                "the header host names a host that this server does not know; start it with --allowed-host NAME",
                code="host_not_allowed",
            )
        for origin in headers.getlist("origin"):
            if origin not in self.origins and not _is_own(origin, host):
                raise ApiError(
                    403,
                    "a web page of another site called; start the server with --allowed-origin ORIGIN to let it",
                    code="origin_not_allowed",
                )
        if preflight:
            return
        # The router's own rule: it accepts /path%0A as /path, whereas a comparison of text does not.
        manages = any(route.matches(scope)[0] is not Match.NONE for route in self.admin_routes)
        keys = self.admin_keys if manages else self.keys
        if scope["path"] not in OPEN_PATHS and keys is not None and not keys.accepts(headers.get("authorization")):
            raise ApiError(
                401,
                "the key is missing or wrong; send the header authorization: Bearer KEY",
                code="invalid_api_key",
                headers=_CHALLENGE,
            )

    def is_preflight(self, method: str, headers: Headers) -> bool:
        """Whether this is a CORS preflight of an allowed origin, which carries no key."""
        asks = method == "OPTIONS" and "access-control-request-method" in headers
        return asks and headers.get("origin") in self.origins

    def cors_headers(self, headers: Headers) -> dict[str, str]:
        """The headers by which a browser gives an answer to a page of an allowed origin; none for other pages."""
        origin = headers.get("origin")
        if origin is None or origin not in self.origins:
            return {}
        return {"access-control-allow-origin": origin, "access-control-expose-headers": _READABLE, "vary": "origin"}


class Guard:
    """Lets requests through to an application, or answers them itself.

    Args:
        app: the application.
        access: the clients that may use it.
        on_refused: receives the status of each answer that refuses a request.
    """

    def __init__(self, app: ASGIApp, access: Access, on_refused: Callable[[int], None] = lambda status: None):
        self._app, self._access, self._on_refused = app, access, on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. Every answer has the request's id, the client's own if it sent one."""
        if scope["type"] != "http":
            return
        scope = by_path(scope)
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID_HEADER, "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        added = {REQUEST_ID_HEADER: request_id, **self._access.cors_headers(headers)}
        preflight = self._access.is_preflight(scope["method"], headers)

        async def send_with_added(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(added)
            await send(message)

        try:
            self._access.check(scope, headers, preflight=preflight)
        except ApiError as error:
            self._on_refused(error.status)
            await error.response()(scope, receive, send_with_added)
            return
        if preflight:
            allowed = {
                "access-control-allow-methods": "GET, POST",
                "access-control-allow-headers": headers.get("access-control-request-headers", ""),
            }
            await Response(status_code=204, headers=allowed)(scope, receive, send_with_added)
            return
        await self._app(scope, receive, send_with_added)


def _is_own(origin: str, host: str) -> bool:
    """Whether an origin is the server's own, by its `Host`. An origin that cannot be parsed, such as `http://[`, is
    not."""
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _name_of(host: str) -> str | None:
    """The name in a `Host` header without its port, in lower case; None if the header is invalid."""
    try:
        parts = urlsplit(f"//{host}")
        port = parts.port
    except ValueError:
        return None
    rest = parts.path or parts.query or parts.fragment or "@" in host or (port is not None and port > 65535)
    return None if rest or parts.hostname is None else parts.hostname.rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
