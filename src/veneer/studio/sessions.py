"""Access to the studio: programs send a key; a browser opens a link that works once and sets a cookie."""

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
"""The path of the link. A secret word follows it."""
OWN_SITES = ("same-origin", "none")
"""The values of `sec-fetch-site` that a browser sends from the studio's own pages and for addresses typed by a user."""
CLOSED_PAGE = (
    "<!doctype html><html lang=en><meta charset=utf-8><title>veneer studio</title><p>This studio does not know your "
    "browser. Open the link that <code>veneer studio</code> printed in the terminal. The link works once; restart the "
    "studio to get a new one.</p></html>"
)


class Sessions:
    """The keys of programs, and the sessions of browsers.

    Args:
        keys: the keys that programs may send.
    """

    def __init__(self, keys: Keys):
        self._keys = keys
        self._word: str | None = None
        self._secret = secrets.token_urlsafe(32)
        self.cookie = f"veneer-studio-{secrets.token_hex(4)}"
        """The name of the cookie. It is random, since browsers share cookies among all servers of a machine."""

    def link(self) -> str:
        """The path of a new link. Earlier links become invalid."""
        self._word = secrets.token_urlsafe(32)
        return f"{LINK}{self._word}"

    def open(self, word: str) -> Response:
        """The response to a link: it sets the cookie and redirects to the pages. A link works once.

        Raises:
            ApiError: 401 if the link is unknown or was used.
        """
        if self._word is None or not hmac.compare_digest(word.encode(), self._word.encode()):
            raise ApiError(401, "the link was used already, or belongs to another studio", code="invalid_link")
        self._word = None
        answer = RedirectResponse("/", status_code=303, headers={"cache-control": "no-store"})
        answer.set_cookie(self.cookie, self._secret, httponly=True, samesite="strict", path="/")
        return answer

    def admits(self, headers: Headers) -> bool:
        """Whether a request has a key or a session.

        A browser sends the cookie for pages from other ports too, but also names the site that a request comes from.
        So pages of other servers on this machine are not admitted.
        """
        given = cookie_parser(headers.get("cookie", "")).get(self.cookie, "")
        own = headers.get("sec-fetch-site", "none") in OWN_SITES
        known = hmac.compare_digest(given.encode(), self._secret.encode()) and own
        return known or self._keys.accepts(headers.get("authorization"))


class SessionGate:
    """Passes a request on to an application if it has a key or a session."""

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
        return Response(CLOSED_PAGE, status_code=401, media_type="text/html", headers=rules)
    return error.response()


def own_key(file: Path) -> Keys:
    """The key in a file. If there is no file, it is created with a new key; no other user may read it.

    Raises:
        ConfigError: the file cannot be used.
        OutputError: the file cannot be written.
    """
    if not file.is_file():
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as target:
                target.write(secrets.token_urlsafe(32) + "\n")
        except OSError as error:
            raise OutputError(f"{file}: cannot be written: {error.strerror}") from error
    return read_keys(file)
