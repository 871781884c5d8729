"""What answers a judge's questions: an endpoint of OpenAI's interface, or a model that is loaded here."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol

from veneer.assistant.assistant import Assistant
from veneer.data.forms.turns import Message
from veneer.errors import ConfigError, DataError
from veneer.evaluation.judge.ahead import OnAnswer, RefusedError, ask_ahead
from veneer.generation.batch import answer_all
from veneer.generation.context import refuse_full, within
from veneer.generation.request import GenerationRequest
from veneer.generation.sampling import Sampling
from veneer.io.error_body import error_message
from veneer.io.web_address import web_address
from veneer.text.strict_json import to_text

SILENCE_SECONDS = 600.0
"""The seconds without a byte after which a request to the endpoint is given up."""
BUSY = (408, 409, 429, 500, 502, 503, 504)
"""HTTP statuses after which the same question may get an answer later."""
PAUSE_SECONDS = 1.0
"""The seconds before a question is asked again, doubled every time."""
LONGEST_PAUSE_SECONDS = 120.0
"""The most seconds to wait if the endpoint says how long (`Retry-After`)."""
OPTIONAL = ("max_tokens", "temperature")
"""Parameters that newer models refuse: the first is then replaced by `max_completion_tokens`, the second left out."""
_UNSUPPORTED = re.compile(r"unsupported|not supported|does not support", re.IGNORECASE)


class Answerer(Protocol):
    """Answers conversations."""

    def answer(self, conversations: Sequence[Sequence[Message]], on_answer: OnAnswer) -> dict[int, str]:
        """Answer all conversations, in any order.

        Returns:
            The reason for each conversation without an answer, by its index.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointAnswerer:
    """A model behind an endpoint of OpenAI's interface.

    Raises:
        ConfigError: `url` is not the address of a web server.
    """

    url: str
    """The address up to `/v1`; `/chat/completions` is appended."""
    model: str
    key: str | None
    max_tokens: int
    at_once: int
    retries: int
    pause: float = PAUSE_SECONDS
    """The seconds before a question is asked again, doubled every time."""
    _refused: set[str] = field(default_factory=set, init=False, repr=False)
    """Parameters that the endpoint has refused, which are not sent again."""

    def __post_init__(self) -> None:
        web_address(self.url, "url")

    def answer(self, conversations: Sequence[Sequence[Message]], on_answer: OnAnswer) -> dict[int, str]:
        """See `Answerer`. Once the endpoint has refused the key or the address, or all of many questions, the rest is
        not asked, nor if `on_answer` fails or the process is stopped (`ask_ahead`)."""
        return ask_ahead(self._one, conversations, self.at_once, on_answer)

    def _one(self, messages: Sequence[Message], halt: threading.Event) -> str:
        for attempt in range(self.retries + 1):
            try:
                return self._ask(messages)
            except RefusedError as error:
                if not error.passing or attempt == self.retries:
                    raise
                if halt.wait(max(self.pause * 2**attempt, min(error.after, LONGEST_PAUSE_SECONDS))):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _ask(self, messages: Sequence[Message]) -> str:
        while True:
            sent = frozenset(OPTIONAL) - self._refused
            status, body, told = self._post(self._content(messages, sent))
            refused = _refused_of(status, body, sent)
            if not refused:
                break
            self._refused.update(refused)
        if status != 200:
            raise RefusedError(
                f"{self.url}: {status}: {error_message(body)}",
                passing=status in BUSY,
                for_all=status in (401, 403, 404),
                after=seconds_told(told),
            )
        return _text(body, self.url)

    def _content(self, messages: Sequence[Message], sent: frozenset[str]) -> dict[str, Any]:
        longest = "max_tokens" if "max_tokens" in sent else "max_completion_tokens"
        content = {"model": self.model, "messages": list(messages), longest: self.max_tokens}
        return content | ({"temperature": 0} if "temperature" in sent else {})

    def _post(self, content: dict[str, Any]) -> tuple[int, bytes, str | None]:
        """The status and body of an answer, and its `Retry-After`."""
        parts = web_address(self.url, "url")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        assert parts.hostname is not None
        headers = {"content-type": "application/json"}
        if self.key is not None:
            headers["authorization"] = f"Bearer {self.key}"
        with closing(kind(parts.hostname, parts.port, timeout=SILENCE_SECONDS)) as connection:
            try:
                path = f"{parts.path.rstrip('/')}/chat/completions"
                connection.request("POST", path, to_text(content).encode(), headers)
                answer = connection.getresponse()
                return answer.status, answer.read(), answer.getheader("retry-after")
            except (OSError, http.client.HTTPException) as error:
                raise RefusedError(f"{self.url} cannot be reached: {error}", passing=True) from error


def _refused_of(status: int, body: bytes, sent: frozenset[str]) -> set[str]:
    """The sent parameters that an answer refuses."""
    message = error_message(body)
    if status != 400 or not _UNSUPPORTED.search(message):
        return set()
    return {name for name in sent if re.search(rf"\b{name}\b", message)}


def seconds_told(header: str | None) -> float:
    """The wait that an endpoint asks for by its `Retry-After`, in seconds: it may be seconds or a date. 0 if it cannot
    be read."""
    if header is None:
        return 0.0
    if re.fullmatch(r"\s*\d{1,9}(?:\.\d+)?\s*", header):
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, moment.timestamp() - time.time())


def _text(body: bytes, url: str) -> str:
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, RecursionError, KeyError, IndexError, TypeError) as error:
        said = error_message(body)
        raise RefusedError(
            f"{url}: the answer cannot be read; is it an endpoint of OpenAI's interface? It said: {said}"
        ) from error
    if isinstance(content, list):
        parts = [one.get("text") for one in content if isinstance(one, dict)]
        content = "".join(one for one in parts if isinstance(one, str)) or None
    if not isinstance(content, str):
        raise RefusedError(f"{url}: the answer has no text")
    # JSON may contain lone surrogates, which no file can.
    return content.encode("utf-8", errors="replace").decode()


@dataclass(frozen=True, slots=True)
class LocalAnswerer:
    """A model in memory, which answers greedily."""

    assistant: Assistant
    max_tokens: int

    def answer(self, conversations: Sequence[Sequence[Message]], on_answer: OnAnswer) -> dict[int, str]:
        """See `Answerer`. A conversation has no answer if the chat template refuses it, or if it fills the model's
        context. An answer ends where the context does."""
        assistant, context = self.assistant, self.assistant.model.spec.max_positions
        problems, numbers, requests = dict[int, str](), list[int](), list[GenerationRequest]()
        asked = Sampling(max_new_tokens=self.max_tokens)
        asked.check_context(context)
        for number, messages in enumerate(conversations):
            try:
                prompt = tuple(assistant.encoder.prompt_tokens(messages))
                refuse_full([("the question", len(prompt))], context)
            except DataError as error:
                problems[number] = str(error)
                continue
            numbers.append(number)
            sampling = within(asked, len(prompt), context)
            requests.append(GenerationRequest(prompt=prompt, sampling=sampling, stop_ids=assistant.stop_ids))

        def tell(row: int, tokens: list[int]) -> None:
            on_answer(numbers[row], assistant.text_of(tokens))

        answer_all(assistant.model, requests, on_answer=tell)
        return problems


def read_key(path: Path | None) -> str | None:
    """The key in a file.

    Raises:
        ConfigError: the file cannot be read, or contains no key.
    """
    if path is None:
        return None
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"key_file {path}: cannot be read: {error}") from error
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigError(f"key_file {path}: does not contain a key, which is one line of ASCII")
    return key
