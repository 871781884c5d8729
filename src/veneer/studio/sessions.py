"""Who may use the studio: programs by a key, and a browser by a link that works once and leaves a cookie."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from veneer.errors import OutputError
from veneer.http_server.errors import ApiError
from veneer.http_server.guard import OPEN_PATHS
from veneer.http_server.keys import Keys, read_keys

LINK = "/open/"
"""The path of the link, before its word."""
OWN_SITES = ("same-origin", "none")
"""What a browser says of requests of the studio's own pages, and of those that a user makes by hand."""
CLOSED = (
    "<!doctype html><html lang=en><meta charset=utf-8><title>veneer studio</title><p>This studio asks who you are. "
    "Open the link that <code>veneer studio</code> printed in the terminal. It works once; stopping and starting the "
    "studio prints a new one.</p></html>"
)


class Sessions:
    """The keys of programs, and the sessions of browsers.

    Args:
        keys: the keys.
    """

    def __init__(self, keys: Keys):
        self._keys = keys
        self._words = {secrets.token_urlsafe(32)}
        self._secret = secrets.token_urlsafe(32)
        self.cookie = f"veneer-studio-{secrets.token_hex(4)}"
        """The name of the cookie: other servers of this machine have theirs."""

    def link(self) -> str:
        """The path of a new link."""
        word = secrets.token_urlsafe(32)
        self._words = {word}
        return f"{LINK}{word}"

    def open(self, word: str) -> Response:
        """The answer to a link: a cookie, and the way to the pages, once.

        Raises:
            ApiError: 401, the link is not known, or was used.
        """
        if not any(hmac.compare_digest(word.encode(), one.encode()) for one in self._words):
            raise ApiError(401, "the link was used already, or is none of this studio's", code="invalid_link")
        self._words.clear()
        answer = RedirectResponse("/", status_code=303, headers={"cache-control": "no-store"})
        answer.set_cookie(self.cookie, self._secret, httponly=True, samesite="strict", path="/")
        return answer

    def admits(self, headers: Headers) -> bool:
        """Whether a request has a key or a session.

        A browser says from which site a request comes, and adds the cookie for pages of other ports too: those of
        other servers on this machine are not let in by it.
        """
        given = cookie_parser(headers.get("cookie", "")).get(self.cookie, "")
        own = headers.get("sec-fetch-site", "none") in OWN_SITES
        known = hmac.compare_digest(given.encode(), self._secret.encode()) and own
        return known or self._keys.accepts(headers.get("authorization"))


class SessionGate:
    """Lets those through to an application who have a key or a session.

    Args:
        app: the application.
        sessions: the open sessions.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions):
        self._app, self._sessions = app, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        headers, path = Headers(scope=scope), scope["path"]
        answer: ASGIApp = self._app
        if scope["method"] == "GET" and path.startswith(LINK):
            try:
                answer = self._sessions.open(path.removeprefix(LINK))
            except ApiError as error:
                answer = _closed(headers, error)
        elif path not in OPEN_PATHS and not self._sessions.admits(headers):
            answer = _closed(headers, ApiError(401, "the key is missing or wrong", code="invalid_api_key"))
        await answer(scope, receive, send)


def _closed(headers: Headers, error: ApiError) -> Response:
    if "text/html" in headers.get("accept", ""):
        rules = {"content-security-policy": "default-src 'none'", "cache-control": "no-store"}
        return Response(CLOSED, status_code=401, media_type="text/html", headers=rules)
    return error.response()


def own_key(file: Path) -> Keys:
    """The key in a file, which is made where there is none; nobody else may read it.

    Raises:
        ConfigError: the file cannot be used.
        OutputError: it cannot be written.
    """
    if not file.is_file():
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as target:
                target.write(secrets.token_urlsafe(32) + "\n")
        except OSError as error:
            raise OutputError(f"{file}: cannot be written: {error.strerror}") from error
    return read_keys(file)
