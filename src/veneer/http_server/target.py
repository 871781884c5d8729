"""The target of a request, which may be a whole address.

A client that addresses the server like a proxy writes `GET http://localhost:8000/v1/models`. A server must accept that,
and the address then counts instead of the header `host` (RFC 9112, 3.2.2).
"""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from starlette.types import Scope

SCHEMES = ("http", "https")


def by_path(scope: Scope) -> Scope:
    """A request whose target is a path, and whose header `host` is what the target named.

    Args:
        scope: the scope of an HTTP request. It is returned unchanged if its target is not an address.
    """
    target = scope.get("raw_path", b"").decode("ascii")
    try:
        parts = urlsplit(target)
    except ValueError:  # such as http://[
        return scope
    if parts.scheme.lower() not in SCHEMES or not parts.netloc:
        return scope
    path = parts.path or "/"
    others = [(name, value) for name, value in scope["headers"] if name != b"host"]
    named = (b"host", parts.netloc.encode())
    return {**scope, "path": unquote(path), "raw_path": path.encode(), "headers": [named, *others]}
