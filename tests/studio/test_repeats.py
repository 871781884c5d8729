"""A request that is sent again since its answer was lost makes nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from starlette.requests import Request
from starlette.responses import Response

from helpers.servers.studios import Opened, studio
from veneer.http_server.errors import ApiError
from veneer.studio import repeats as repeats_module
from veneer.studio.repeats import KEY_HEADER, LONGEST_KEY_CHARS, Repeats


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    with studio(tmp_path_factory.mktemp("repeats") / "runs") as found:
        yield found


MOST = 1_000


def _request(key: str | None, path: str = "/made", body: bytes = b"", kind: str = "application/json") -> Request:
    pieces = [body[start : start + 7] for start in range(0, len(body), 7)]

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": pieces.pop(0) if pieces else b"", "more_body": bool(pieces)}

    headers = [(b"content-type", kind.encode())] + ([] if key is None else [(KEY_HEADER.encode(), key.encode())])
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "server": None}
    return Request(scope, receive)


def test_a_key_is_answered_once_also_while_the_first_request_is_under_way() -> None:
    made: list[Response] = []

    async def make(sent: Request) -> Response:
        await asyncio.sleep(0.01)
        made.append(Response(str(len(made))))
        return made[-1]

    async def ask() -> list[Response]:
        repeats = Repeats()
        both = await asyncio.gather(*(repeats.answer(_request("one"), make, MOST) for _ in range(2)))
        others = [await repeats.answer(_request(key, path), make, MOST) for key, path in (
            ("one", "/made"), ("two", "/made"), ("one", "/else"), (None, "/made"), (None, "/made"),
        )]  # fmt: skip
        return [*both, *others]

    assert [answer.body for answer in asyncio.run(ask())] == [b"0", b"0", b"0", b"1", b"2", b"3", b"4"]


def test_a_request_that_was_refused_is_made_when_it_is_sent_again() -> None:
    fine = Response("fine")

    async def refuse(sent: Request) -> Response:
        raise ApiError(400, "no")

    async def make(sent: Request) -> Response:
        return fine

    async def ask() -> Response:
        repeats = Repeats()
        with pytest.raises(ApiError, match="no"):
            await repeats.answer(_request("one"), refuse, MOST)
        with pytest.raises(ApiError, match="may have 200"):
            await repeats.answer(_request("x" * (LONGEST_KEY_CHARS + 1)), make, MOST)
        found: Response = await repeats.answer(_request("one"), make, MOST)
        return found

    assert asyncio.run(ask()) is fine


async def _read(sent: Request) -> Response:
    return Response(await sent.body())


def _form(boundary: str, text: str) -> bytes:
    return f"--{boundary}\r\ncontent-disposition: form-data; name=a\r\n\r\n{text}\r\n--{boundary}--\r\n".encode()


def test_a_key_with_another_body_is_refused_and_no_form_is_another_one_for_its_boundary() -> None:
    async def ask() -> None:
        repeats = Repeats()

        async def answer(key: str, body: bytes, kind: str = "application/json") -> bytes:
            found = await repeats.answer(_request(key, body=body, kind=kind), _read, MOST)
            return bytes(found.body)

        assert await answer("one", b'{"suffix": "a"}') == await answer("one", b'{"suffix": "a"}')
        for other in (b'{"suffix": "b"}', b'{"suffix": "a"', b""):
            with pytest.raises(ApiError, match="with another body before"):
                await answer("one", other)
        with pytest.raises(ApiError, match="more than 1,000 bytes"):
            await answer("one", b"x" * 1_100)
        form = "multipart/form-data; boundary="
        first = await answer("two", _form("0123456789", "text"), form + "0123456789")
        assert await answer("two", _form("abcdefghijklmno", "text"), form + "abcdefghijklmno") == first
        with pytest.raises(ApiError, match="with another body before"):
            await answer("two", _form("0123456789", "texts"), form + "0123456789")

    asyncio.run(ask())


def test_a_request_under_way_is_known_however_many_others_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats_module, "MOST_KEYS", 3)
    made = 0

    async def ask() -> None:
        repeats, gate = Repeats(), asyncio.Event()

        async def make(sent: Request) -> Response:
            nonlocal made
            made += 1
            await gate.wait()
            return Response("slow")

        first = asyncio.create_task(repeats.answer(_request("slow"), make, MOST))
        await asyncio.sleep(0)
        for number in range(9):
            await repeats.answer(_request(str(number)), _read, MOST)
        again = asyncio.create_task(repeats.answer(_request("slow"), make, MOST))
        await asyncio.sleep(0)
        gate.set()
        assert await first is await again

    asyncio.run(ask())
    assert made == 1


def test_an_upload_that_is_sent_again_is_one_file(opened: Opened) -> None:
    def upload(key: str) -> str:
        rows = {"file": ("rows.jsonl", b'{"text": "a"}\n' * 9)}
        answer = opened.http.post("/v1/files", files=rows, data={"purpose": "fine-tune"}, headers={KEY_HEADER: key})
        found: str = answer.json()["id"]
        return found

    assert upload("one") == upload("one") != upload("two")
    assert len(opened.http.get("/v1/files").json()["data"]) == 2
