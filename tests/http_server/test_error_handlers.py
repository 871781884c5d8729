from __future__ import annotations

import io
import logging
import re

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from veneer.errors import ConfigError
from veneer.http_server.client_gone import ClientGone
from veneer.http_server.error_handlers import error_handlers
from veneer.http_server.errors import ApiError

LOG = logging.getLogger("a server")


def answer_to(error: Exception, path: str = "/there", method: str = "GET") -> tuple[int, object]:
    async def there(request: Request) -> Response:
        raise error

    def refusal(request: Request, error: ApiError) -> Response:
        return error.response()

    app = Starlette(routes=[Route("/there", there)], exception_handlers=error_handlers(refusal, LOG, "the server"))
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.request(method, path)
    return answer.status_code, answer.json()["error"]["message"] if answer.content else None


def test_what_a_route_refuses_is_said_as_it_is() -> None:
    assert answer_to(ApiError(409, "not now")) == (409, "not now")
    assert answer_to(ConfigError("rank: 0 is too small")) == (400, "rank: 0 is too small")
    assert answer_to(ConfigError(""), "/elsewhere") == (404, "there is no such route")


def test_a_method_that_a_route_does_not_take_is_refused_with_those_that_it_takes() -> None:
    status, message = answer_to(ConfigError(""), method="DELETE")
    assert status == 405
    assert isinstance(message, str)
    assert {"GET", "HEAD"} <= set(re.findall("[A-Z]+", message))


def test_nobody_is_answered_where_the_client_has_gone() -> None:
    assert answer_to(ClientGone()) == (499, None)


def test_of_what_nobody_has_foreseen_the_log_gets_the_place_and_nobody_the_message() -> None:
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    LOG.addHandler(handler)
    try:
        answer = answer_to(ZeroDivisionError("canary"))
    finally:
        LOG.removeHandler(handler)
    assert answer == (500, "the server has failed on this request; its log says where")
    assert "ZeroDivisionError" in logged.getvalue()
    assert "canary" not in logged.getvalue()
