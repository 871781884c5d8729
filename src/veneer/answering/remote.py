"""A model on a server, for `veneer chat --server`."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from veneer.data.forms.turns import Message
from veneer.errors import ConfigError, DataError
from veneer.events import Level, Note, Subscriber, broadcast
from veneer.generation.sampling import Sampling
from veneer.io.error_body import error_message
from veneer.io.web_address import web_address
from veneer.text.strict_json import to_text

SILENCE_SECONDS = 600.0
"""The seconds of silence after which the server is given up."""
REFUSAL_STATUSES = (400, 422)
"""Statuses by which servers refuse the content of a request."""
DATA_PREFIX, LAST_DATA = b"data:", b"[DONE]"
"""The beginning of a line with data in a stream, and the data of the last one."""


class _BadRequest(DataError):
    """The server refuses the content of a request."""


@dataclass(slots=True)
class RemoteAssistant:
    """A model of a server (`veneer.assistant.conversation.Answering`).

    Raises:
        ConfigError: `server` is not the address of a web server.
    """

    server: str
    """The server's address, `http://HOST:PORT`, with or without `/v1`."""
    model: str
    """The name of the base or of an adapter there."""
    key: str | None = None
    """The server's key, if it asks for one."""

    def __post_init__(self) -> None:
        web_address(self.server, "--server")

    def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        on_text: Callable[[str], None],
        *,
        subscribers: Sequence[Subscriber] = (),
    ) -> str:
        """The model's next turn; `on_text` gets it piece by piece.

        If the context has less room than `sampling` allows, the answer is cut there, as with a local model, and
        `subscribers` are notified.

        Raises:
            ConfigError: the server cannot be reached, or its answer cannot be read.
            DataError: the server refuses.
        """
        content = self._content(messages, sampling)
        try:
            return self._answer(content, on_text)[0]
        except _BadRequest:
            # Servers refuse answers that may exceed the context. Any other error is raised by the second try.
            del content["max_tokens"]
        answer, reason = self._answer(content, on_text)
        if reason == "length":
            message = (
                f"the context has no room for an answer of {sampling.max_new_tokens:,} tokens, and this one was cut"
            )
            broadcast(subscribers)(Note(message=message, level=Level.WARNING))
        return answer

    def _answer(self, content: Mapping[str, object], on_text: Callable[[str], None]) -> tuple[str, str | None]:
        """The answer, which `on_text` gets piece by piece, and why it has ended."""
        pieces, reason = [], None
        for text, its_reason in self._choices(content):
            if text:
                pieces.append(text)
                on_text(text)
            reason = its_reason or reason
        return "".join(pieces), reason

    def _choices(self, content: Mapping[str, object]) -> Iterator[tuple[str, str | None]]:
        """See `_choices_in`. Raises ConfigError if the server sends no stream, or one that ends before the answer."""
        data, ended = b"", False
        with _asked(self.server, self.key, "chat/completions", content) as answer:
            for data in filter(None, map(_data_of, answer)):
                found = [] if data == LAST_DATA else _choices_in(data, self.server)
                ended = ended or data == LAST_DATA or any(reason for _, reason in found)
                yield from found
        if not data:
            raise _unreadable(self.server)
        if not ended:
            raise ConfigError(f"{self.server}: its stream was cut off before the answer's end; ask again")

    def _content(self, messages: Sequence[Message], sampling: Sampling) -> dict[str, object]:
        return {
            "model": self.model,
            "messages": list(messages),
            "stream": True,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }


def first_model(server: str, key: str | None = None) -> str:
    """The name of the first model that a server lists; one of veneer's lists the base first.

    Args:
        server, key: see `RemoteAssistant`.

    Raises:
        ConfigError: the server cannot be reached, or has no list of models.
        DataError: the server refuses.
    """
    with _asked(server, key, "models") as answer:
        body = answer.read()
    try:
        return str(json.loads(body)["data"][0]["id"])
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{server}: it has no list of models that can be read; is it a server of OpenAI's interface? --model names "
            "one of its models"
        ) from error


@contextmanager
def _asked(server: str, key: str | None, route: str, content: object = None) -> Iterator[http.client.HTTPResponse]:
    """The server's answer on a route of OpenAI's interface, to a POST of some content or, without any, to a GET.

    Raises:
        ConfigError: the address is invalid, or the server cannot be reached, now or while the answer is read.
        DataError: the server refuses.
    """
    parts = web_address(server, "--server")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    assert parts.hostname is not None
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    path = f"{parts.path.rstrip('/').removesuffix('/v1')}/v1/{route}"
    with closing(kind(parts.hostname, parts.port, timeout=SILENCE_SECONDS)) as connection:
        try:
            if content is None:
                connection.request("GET", path, headers=headers)
            else:
                headers["content-type"] = "application/json"
                connection.request("POST", path, to_text(content).encode(), headers)
            answer = connection.getresponse()
            if answer.status != 200:
                refused = _BadRequest if answer.status in REFUSAL_STATUSES else DataError
                raise refused(f"{server}: {error_message(answer.read())} ({answer.status})")
            yield answer
        except (OSError, http.client.HTTPException) as error:
            raise ConfigError(f"{server}: cannot be reached: {error}") from error


def _data_of(line: bytes) -> bytes:
    """The data in a line of server-sent events, whose colon a space may follow; empty if it has none."""
    return line.removeprefix(DATA_PREFIX).strip() if line.startswith(DATA_PREFIX) else b""


def _choices_in(data: bytes, server: str) -> list[tuple[str, str | None]]:
    """The text of an event's choices, each with the reason why its answer has ended, or None. Absent fields may be
    null.

    Raises:
        ConfigError: the event is an error, or cannot be read.
    """
    try:
        event = _object(json.loads(data), server)
    except (ValueError, RecursionError) as error:
        raise _unreadable(server) from error
    if event.get("error") is not None:
        raise ConfigError(f"{server}: {error_message(data)}")
    choices = event.get("choices")
    if not isinstance(choices, list | None):
        raise _unreadable(server)
    return [_said(_object(choice, server), server) for choice in choices or []]


def _said(choice: Mapping[str, Any], server: str) -> tuple[str, str | None]:
    text, reason = _object(choice.get("delta"), server).get("content"), choice.get("finish_reason")
    if not isinstance(text, str | None) or not isinstance(reason, str | None):
        raise _unreadable(server)
    return text or "", reason


def _object(value: object, server: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping | None):
        raise _unreadable(server)
    return value or {}


def _unreadable(server: str) -> ConfigError:
    return ConfigError(f"{server}: its stream cannot be read; is it a server of OpenAI's interface?")
