"""A conversation with a model that a server has: what `veneer chat --server` talks to."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from veneer.errors import ConfigError, DataError
from veneer.generation.sampling import Sampling
from veneer.strict_json import to_text

SECONDS = 600.0
"""Seconds without a word after which the server is given up."""


@dataclass(slots=True)
class RemoteConversation:
    """A conversation with a model of a server, which remembers what was said (`veneer.assistant.Conversation`).

    Raises:
        ConfigError: `server` is no address of a web server.
    """

    server: str
    """The server's address, `http://HOST:PORT`, with or without `/v1`."""
    model: str
    """The name of the base or of an adapter there."""
    system: str | None = None
    """The system message that it begins with."""
    sampling: Sampling = field(default_factory=Sampling)
    key: str | None = None
    messages: list[dict[str, str]] = field(init=False)
    """What was said, the system message included."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.server)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--server {self.server}: must be an address as http://127.0.0.1:8000")
        self.restart()

    def restart(self) -> None:
        """Forget what was said."""
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]

    def say(self, text: str, on_text: Callable[[str], None] = lambda text: None) -> str:
        """Say something; see `Conversation.say`.

        Raises:
            ConfigError: the server cannot be reached, or refuses; the message is not remembered.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        pieces = []
        for piece in self._pieces(asked):
            pieces.append(piece)
            on_text(piece)
        answer = "".join(pieces)
        self.messages = [*asked, {"role": "assistant", "content": answer}]
        return answer

    def _pieces(self, messages: list[dict[str, str]]) -> Iterator[str]:
        parts = urlsplit(self.server)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        assert parts.hostname is not None
        headers = {"content-type": "application/json"}
        if self.key is not None:
            headers["authorization"] = f"Bearer {self.key}"
        path = f"{parts.path.rstrip('/').removesuffix('/v1')}/v1/chat/completions"
        with closing(kind(parts.hostname, parts.port, timeout=SECONDS)) as connection:
            try:
                connection.request("POST", path, to_text(self._content(messages)).encode(), headers)
                answer = connection.getresponse()
                if answer.status != 200:
                    raise DataError(f"{self.server}: {_message(answer.read())} ({answer.status})")
                for line in answer:
                    yield from _texts(line, self.server)
            except (OSError, http.client.HTTPException) as error:
                raise ConfigError(f"{self.server}: cannot be reached: {error}") from error

    def _content(self, messages: list[dict[str, str]]) -> dict[str, object]:
        sampling = self.sampling
        return {
            "model": self.model,
            "messages": messages,
            "stream": True,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }


def _texts(line: bytes, server: str) -> Iterator[str]:
    """The text in a line of a stream."""
    data = line.strip().removeprefix(b"data: ")
    if not line.startswith(b"data: ") or data == b"[DONE]":
        return
    try:
        event = json.loads(data)
    except ValueError as error:
        raise ConfigError(f"{server}: its stream cannot be read; is it a server of OpenAI's interface?") from error
    if "error" in event:
        raise ConfigError(f"{server}: {_message(data)}")
    for choice in event.get("choices", []):
        text = choice.get("delta", {}).get("content")
        if text:
            yield text


def _message(body: bytes) -> str:
    """What an error says, in OpenAI's form or another."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", errors="replace")[:200] or "no answer"
