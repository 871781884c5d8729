"""Handles the errors that routes raise: each is answered as a refusal, and unforeseen ones are logged."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from veneer.errors import VeneerError, where_raised
from veneer.http_server.client_gone import ClientGone
from veneer.http_server.errors import ApiError

Handlers = dict[Any, Callable[[Request, Exception], Awaitable[Response]]]
"""What Starlette calls for exceptions, by their classes; the nearest class counts."""


def error_handlers(refusal: Callable[[Request, ApiError], Response], log: logging.Logger, name: str) -> Handlers:
    """The handlers of an application.

    Args:
        refusal: makes the answer to a refused request.
        log: gets the place of an unforeseen error, but not its message, which may contain what a user wrote.
        name: the application's name in messages.
    """

    async def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return refusal(request, error)

    async def veneer_error(request: Request, error: Exception) -> Response:
        return refusal(request, ApiError(400, str(error)))

    async def http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        messages = {
            404: "there is no such route",
            405: f"this route does not take the request's method; use {(error.headers or {}).get('Allow', 'another')}",
        }
        message = messages.get(error.status_code, str(error.detail))
        return refusal(request, ApiError(error.status_code, message, headers=error.headers))

    async def client_gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    async def unforeseen(request: Request, error: Exception) -> Response:
        log.error("%s", where_raised(error))
        return refusal(request, ApiError(500, f"{name} has failed on this request; its log says where"))

    return {
        ApiError: api_error,
        VeneerError: veneer_error,
        HTTPException: http_exception,
        ClientGone: client_gone,
        Exception: unforeseen,
    }
