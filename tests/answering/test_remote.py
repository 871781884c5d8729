"""`veneer chat --server` says what the server's model says, remembers it, and tells what is wrong."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from helpers.processes.invoking import invoke
from helpers.servers.served import ADAPTER, BASE, serving
from veneer.answering.remote import RemoteAssistant
from veneer.assistant.assistant import Assistant
from veneer.assistant.conversation import Conversation
from veneer.errors import ConfigError, DataError
from veneer.events import Event, Note
from veneer.generation.sampling import Sampling
from veneer.http_server.guard import Access
from veneer.http_server.keys import Keys
from veneer.http_server.server import HttpServer

KEY = "a-key-of-the-server"


def test_a_conversation_is_the_one_with_the_model_here(server: HttpServer, assistant: Assistant) -> None:
    sampling = Sampling(max_new_tokens=8)
    here = Conversation(assistant, "Be brief.", sampling)
    there = Conversation(RemoteAssistant(f"{server.url}/v1/", BASE), "Be brief.", sampling)
    for said in ("1: late?", "2: blue?"):
        pieces: list[str] = []
        assert there.say(said, pieces.append) == "".join(pieces) == here.say(said)
    assert there.messages == here.messages
    there.restart()
    assert len(there.messages) == 1


def test_an_answer_that_the_context_has_no_room_for_is_cut_there_and_that_is_told(
    server: HttpServer, assistant: Assistant
) -> None:
    context = assistant.model.spec.max_positions
    sampling, text = Sampling(max_new_tokens=context), "late?"
    while len(assistant.encoder.prompt_tokens([{"role": "user", "content": text}])) < context - 4:
        text += "?"
    said: list[tuple[str, int]] = []
    for one in (assistant, RemoteAssistant(server.url, BASE)):
        notes: list[Event] = []
        answer = Conversation(one, sampling=sampling).say(text, subscribers=[notes.append])
        said.append((answer, len([note for note in notes if isinstance(note, Note)])))
    assert said[0] == said[1]
    assert said[0][1] == 1
    with pytest.raises(DataError, match="context"):
        Conversation(RemoteAssistant(server.url, BASE)).say("late? " * context)


def test_the_command_talks_to_a_server_with_a_key(assistant: Assistant, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(f"{KEY}\n")
    key.chmod(0o600)
    with serving(assistant, access=Access(keys=Keys([KEY]))) as (server, _):
        arguments = ("chat", "--server", server.url, "--model", BASE, "--max-new-tokens", 5)
        result = invoke(*arguments, "--key-file", key, stdin="1: late?\n2: blue?\n")
        assert result.exit_code == 0, result.output
        here = Conversation(assistant, sampling=Sampling(max_new_tokens=5))
        assert result.stdout == f"{here.say('1: late?')}\n{here.say('2: blue?')}\n"
        refused = invoke(*arguments, stdin="1: late?\n")
        assert refused.exit_code == 2
        assert "the key is missing or wrong" in refused.stderr


def test_the_first_model_of_the_server_answers_where_none_is_named(server: HttpServer, assistant: Assistant) -> None:
    result = invoke("chat", "--server", server.url, "--max-new-tokens", 5, stdin="1: late?\n")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{Conversation(assistant, sampling=Sampling(max_new_tokens=5)).say('1: late?')}\n"
    assert f"{BASE} answers" in result.stderr


@contextmanager
def other_server(body: bytes) -> Iterator[str]:
    """The address of a server that answers once, whatever it is asked."""

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.handle_request, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{other.server_port}"
        thread.join()


SAID = b'{"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": null}]}'
ENDED = b'{"choices": [{"index": 0, "delta": null, "finish_reason": "stop"}]}'


@pytest.mark.parametrize(
    "body",
    [
        b"data: " + SAID + b"\n\ndata: [DONE]\n\n",
        b"data:" + SAID + b"\r\n\r\ndata:[DONE]\r\n\r\n",
        b": a comment\nevent: x\ndata: " + SAID + b"\n\ndata: " + ENDED + b"\n\n",
        b"data: " + SAID + b'\n\ndata: {"choices": null, "error": null, "usage": {}}\n\ndata: [DONE]\n\n',
    ],
    ids=["a space", "no space", "no mark of the end", "nulls"],
)
def test_streams_as_other_servers_write_them_are_read(body: bytes) -> None:
    with other_server(body) as address:
        assert Conversation(RemoteAssistant(address, BASE)).say("late?") == "hi"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "cannot be read"),
        (b"<html>login</html>", "cannot be read"),
        (b'{"choices": [{"message": {"content": "hi"}}]}', "cannot be read"),
        *((b"data: " + event + b"\n\n", "cannot be read") for event in (b"5", b"[1]", b"{")),
        pytest.param(b"data: " + b"[" * 100_000 + b"\n\n", "cannot be read", id="nested without end"),
        *((b'data: {"choices": ' + found + b"}\n\n", "cannot be read") for found in (b"5", b'"x"', b'["x"]', b"{}")),
        (b'data: {"choices": [{"delta": {"content": ["hi"]}}]}\n\n', "cannot be read"),
        (b'data: {"error": {"message": "boom"}}\n\n', "boom"),
        (b"data: " + SAID + b"\n\n", "cut off before the answer's end"),
        (b"data: " + SAID.replace(b"null", b'""') + b"\n\n", "cut off before the answer's end"),
    ],
)
def test_a_stream_that_cannot_be_read_to_its_end_is_told_and_not_remembered(body: bytes, message: str) -> None:
    with other_server(body) as address:
        there = Conversation(RemoteAssistant(address, BASE))
        with pytest.raises(ConfigError, match=message):
            there.say("late?")
    assert there.messages == []


def test_a_reader_that_has_gone_is_no_fault_of_the_server(server: HttpServer) -> None:
    def gone(text: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Conversation(RemoteAssistant(server.url, BASE), sampling=Sampling(max_new_tokens=8)).say("1: late?", gone)


@pytest.mark.parametrize("body", [b"<html>", b'{"data": []}', b'{"data": [{"name": "m"}]}', b"[]"])
def test_a_server_without_a_list_of_models_is_told(body: bytes) -> None:
    with other_server(body) as address:
        result = invoke("chat", "--server", address, stdin="")
    assert result.exit_code == 2
    assert "no list of models" in result.stderr
    assert "--model" in result.stderr


def test_a_server_that_is_not_there_or_asks_for_a_key_is_told_before_the_first_word(assistant: Assistant) -> None:
    with serving(assistant, access=Access(keys=Keys([KEY]))) as (server, _):
        refused = invoke("chat", "--server", server.url, stdin="1: late?\n")
    gone = invoke("chat", "--server", server.url, stdin="1: late?\n")
    for result, message in ((refused, "the key is missing or wrong"), (gone, "cannot be reached")):
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr


def test_options_of_a_model_here_are_refused_beside_a_server(server: HttpServer) -> None:
    for more in (("--adapter", "x"), ("--method", "qlora"), ("--device", "cpu")):
        result = invoke("chat", "--server", server.url, "--model", BASE, *more, stdin="")
        assert result.exit_code == 2
        assert more[0] in result.stderr


def test_what_is_wrong_is_told_and_not_remembered(server: HttpServer) -> None:
    there = Conversation(RemoteAssistant(server.url, "nobody"))
    with pytest.raises(DataError, match=r"there is no model '.*\(404\)"):
        there.say("late?")
    assert there.messages == []
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConfigError, match="cannot be reached"):
        Conversation(RemoteAssistant(f"http://127.0.0.1:{port}", ADAPTER)).say("late?")
    for address in ("127.0.0.1:8000", "ftp://a", "", "http://"):
        with pytest.raises(ConfigError, match="is not an address like"):
            RemoteAssistant(address, BASE)


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999", "http://[::1", "http://h/v1?a=1", "http://me:secret@h"])
@pytest.mark.parametrize("more", [(), ("--model", BASE)], ids=["first model", "named model"])
def test_an_address_that_cannot_be_asked_is_refused_with_the_rule(address: str, more: tuple[str, ...]) -> None:
    result = invoke("chat", "--server", address, *more, stdin="late?\n")
    assert result.exit_code == 2
    assert "--server: 'http://" in result.stderr
    assert "secret" not in result.stderr
