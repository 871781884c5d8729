"""GET /: a page for talking to the base and an adapter side by side, in one file that loads nothing else."""

from __future__ import annotations

import secrets
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from veneer.http_server.errors import UNCACHED_HEADERS
from veneer.serving.service import Service


async def page(service: Service, request: Request) -> Response:
    """The page. Its content security policy allows only its own script, and only requests to this server."""
    nonce = secrets.token_urlsafe(16)
    rules = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "content-security-policy": rules,
        "referrer-policy": "no-referrer",
        **UNCACHED_HEADERS,
    }
    return Response(_text().replace("{{nonce}}", nonce), media_type="text/html", headers=headers)


@cache
def _text() -> str:
    return (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
