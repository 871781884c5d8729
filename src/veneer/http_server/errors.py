"""The server's errors, in the form of OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import Response

from veneer.errors import OutputError
from veneer.text.strict_json import to_text

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
NO_RETRY = {"x-should-retry": "false"}
"""The header that keeps OpenAI's clients from retrying by themselves, as they do after 409 and 500."""
UNCACHED_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
"""Headers of an answer that no proxy may cache, and whose type no browser may guess."""


class ApiError(Exception):
    """A request is refused or has failed.

    Args:
        status: the HTTP status.
        message: the value, the rule, and the remedy. It must not contain what a user wrote.
        param: the field that caused the error.
        code: a word for programs.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def content(self) -> dict[str, object]:
        """The body: `{"error": {"message", "type", "param", "code"}}`."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        code = self.code or HTTPStatus(self.status).phrase.lower().replace(" ", "_")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": code}}

    def response(self) -> Response:
        """The answer."""
        return json_response(self.content, status=self.status, headers=self.headers)


def json_response(content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of JSON."""
    return Response(
        json_bytes(content),
        status_code=status,
        media_type="application/json",
        headers={**UNCACHED_HEADERS, **(headers or {})},
    )


def json_bytes(content: object) -> bytes:
    """A value as JSON without white space, in UTF-8.

    Raises:
        ApiError: 500, it holds a number that JSON cannot represent. The request did not cause this.
    """
    try:
        text = to_text(content, ensure_ascii=False, separators=(",", ":"))
    except OutputError as error:
        raise ApiError(500, f"the answer cannot be written: {error}", headers=NO_RETRY) from error
    return text.encode("utf-8", errors="replace")
