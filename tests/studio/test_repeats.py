"""A request that is sent again since its answer was lost makes nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from starlette.requests import Request
from starlette.responses import Response

from studios import Opened, studio
from veneer.serving.errors import ApiError
from veneer.studio.repeats import KEY, LONGEST_KEY, Repeats


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    with studio(tmp_path_factory.mktemp("repeats") / "runs") as found:
        yield found


def _request(key: str | None, path: str = "/made") -> Request:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    headers = [] if key is None else [(KEY.encode(), key.encode())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "server": None}
    return Request(scope, receive)


def test_a_key_is_answered_once_also_while_the_first_request_is_under_way() -> None:
    made: list[Response] = []

    async def make() -> Response:
        await asyncio.sleep(0.01)
        made.append(Response(str(len(made))))
        return made[-1]

    async def ask() -> list[Response]:
        repeats = Repeats()
        both = await asyncio.gather(*(repeats.answer(_request("one"), make) for _ in range(2)))
        others = [await repeats.answer(_request(key, path), make) for key, path in (
            ("one", "/made"), ("two", "/made"), ("one", "/else"), (None, "/made"), (None, "/made"),
        )]  # fmt: skip
        return [*both, *others]

    assert [answer.body for answer in asyncio.run(ask())] == [b"0", b"0", b"0", b"1", b"2", b"3", b"4"]


def test_a_request_that_was_refused_is_made_when_it_is_sent_again() -> None:
    fine = Response("fine")

    async def refuse() -> Response:
        raise ApiError(400, "no")

    async def make() -> Response:
        return fine

    async def ask() -> Response:
        repeats = Repeats()
        with pytest.raises(ApiError, match="no"):
            await repeats.answer(_request("one"), refuse)
        with pytest.raises(ApiError, match="may have 200"):
            await repeats.answer(_request("x" * (LONGEST_KEY + 1)), make)
        found: Response = await repeats.answer(_request("one"), make)
        return found

    assert asyncio.run(ask()) is fine


def test_an_upload_that_is_sent_again_is_one_file(opened: Opened) -> None:
    def upload(key: str) -> str:
        rows = {"file": ("rows.jsonl", b'{"text": "a"}\n' * 9)}
        answer = opened.http.post("/v1/files", files=rows, data={"purpose": "fine-tune"}, headers={KEY: key})
        found: str = answer.json()["id"]
        return found

    assert upload("one") == upload("one") != upload("two")
    assert len(opened.http.get("/v1/files").json()["data"]) == 2
