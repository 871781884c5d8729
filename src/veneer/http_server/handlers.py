"""Handles the errors that routes raise: each is answered as a refusal, and unforeseen ones are logged."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from veneer.errors import VeneerError, where_raised
from veneer.http_server.errors import ApiError
from veneer.http_server.gone import ClientGone

Handlers = dict[Any, Callable[[Request, Exception], Awaitable[Response]]]
"""What Starlette calls for exceptions, by their classes; the nearest class counts."""


def error_handlers(said: Callable[[Request, ApiError], Response], log: logging.Logger, name: str) -> Handlers:
    """The handlers of an application.

    Args:
        said: makes the answer to a refusal.
        log: gets the place of an unforeseen error, but not its message, which may contain what a user wrote.
        name: the application's name in messages.
    """

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return said(request, error)

    async def mended(request: Request, error: Exception) -> Response:
        return said(request, ApiError(400, str(error)))

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = "there is no such route" if error.status_code == 404 else str(error.detail)
        return said(request, ApiError(error.status_code, message, headers=error.headers))

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)

    async def failed(request: Request, error: Exception) -> Response:
        log.error("%s", where_raised(error))
        return said(request, ApiError(500, f"{name} has failed on this request; its log says where"))

    return {ApiError: refused, VeneerError: mended, HTTPException: unknown, ClientGone: gone, Exception: failed}
