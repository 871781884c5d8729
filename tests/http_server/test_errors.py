"""Errors in OpenAI's form."""

from __future__ import annotations

import json

import pytest

from veneer.http_server.errors import ApiError, json_bytes


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request_error", "bad_request"),
        (401, "authentication_error", "unauthorized"),
        (404, "not_found_error", "not_found"),
        (409, "conflict_error", "conflict"),
        (429, "rate_limit_error", "too_many_requests"),
        (503, "server_error", "service_unavailable"),
    ],
)
def test_an_error_has_openais_fields_and_its_headers(status: int, kind: str, code: str) -> None:
    response = ApiError(status, "why", param="n", headers={"retry-after": "1"}).response()
    assert response.status_code == status
    assert json.loads(bytes(response.body)) == {"error": {"message": "why", "type": kind, "param": "n", "code": code}}
    assert response.headers["retry-after"] == "1"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_lone_half_of_a_character_is_no_error() -> None:
    assert json.loads(json_bytes({"text": "a\ud800"}))["text"] == "a?"


def test_a_number_that_json_has_none_for_is_no_fault_of_what_was_asked() -> None:
    with pytest.raises(ApiError, match="logprob: nan") as caught:
        json_bytes({"logprob": float("nan")})
    assert (caught.value.status, caught.value.headers["x-should-retry"]) == (500, "false")
