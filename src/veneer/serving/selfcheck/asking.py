"""Asks a running server many questions at once, while its adapters are replaced, and keeps the answers."""

from __future__ import annotations

import http.client
import json
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from veneer.errors import ModelError
from veneer.http_server.server import HttpServer
from veneer.serving.selfcheck.comparison import streamed_answer, whole_answer
from veneer.serving.selfcheck.questions import CheckQuestion
from veneer.serving.selfcheck.versions import AdapterVersions
from veneer.serving.served_adapters.catalogue import AdapterCatalogue
from veneer.text.strict_json import to_text

CLIENTS = 24
"""The number of questions that are asked at a time."""
QUESTIONS_PER_RELOAD = 25
"""The number of questions from one reload to the next."""
SILENCE_SECONDS = 600.0
"""How long a client waits for the next bytes from the server."""
EXCHANGED_ERRORS = ("changed since it was loaded", "changed while they were read")
"""Parts of the server's errors for an adapter whose files were replaced and that it has not reloaded yet."""


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """The result of a question."""

    question: CheckQuestion
    content: dict[str, Any] | None
    """The answer (`whole_answer`); None if there is no answer."""
    fingerprint: str = ""
    """The `system_fingerprint` of the answer, which says what has answered."""
    possible: tuple[str, ...] = ()
    """Digests of the versions of the adapter that may have answered."""
    left: bool = False
    """Whether the client disconnected before it had the answer."""
    error: str | None = None
    """Why there is no answer."""

    @property
    def exchanged(self) -> bool:
        """Whether it was refused because the adapter's files were replaced meanwhile, which is correct then."""
        meanwhile = len(self.possible) > 1
        return meanwhile and self.error is not None and any(reason in self.error for reason in EXCHANGED_ERRORS)


class Reloads:
    """Replaces adapters under their names while questions are asked.

    Args:
        versions: the adapters' files.
        catalogue: the server's catalogue, which reloads them.
        names: the names of the adapters; one is replaced at a time.
        seed: the seed for the choice of adapters.
    """

    def __init__(self, versions: AdapterVersions, catalogue: AdapterCatalogue, names: Sequence[str], seed: int):
        self._versions, self._catalogue, self._names = versions, catalogue, names
        self._source, self._lock = random.Random(seed), threading.Lock()
        self.count = 0

    def reload(self) -> None:
        """Replace an adapter, and have the server load it. Raises AdapterError, OutputError."""
        with self._lock:
            name = self._source.choice(self._names)
            self._versions.exchange(name)
            self._catalogue.load(name, None)
            self._versions.loaded(name)
            self.count += 1


def ask_all(
    server: HttpServer,
    base: str,
    questions: Sequence[CheckQuestion],
    versions: AdapterVersions | None,
    reloads: Reloads | None,
    on_answer: Callable[[], None],
) -> list[CheckedAnswer]:
    """Ask all questions, `CLIENTS` at a time, and reload an adapter with every `QUESTIONS_PER_RELOAD`th.

    Args:
        server: the running server.
        base: the base's name.
        questions: the questions, in the order in which they are asked.
        versions: the adapters' files; None if there are no adapters.
        reloads: replaces adapters; None leaves all as they are.
        on_answer: called once for each question, on any thread.

    Raises:
        ModelError: the server cannot be reached any more.
        AdapterError, OutputError: an adapter cannot be replaced.
    """

    def answer_to(question: CheckQuestion) -> CheckedAnswer:
        if reloads is not None and question.number % QUESTIONS_PER_RELOAD == QUESTIONS_PER_RELOAD - 1:
            reloads.reload()
        answer = _ask(server, base, question, versions)
        on_answer()
        return answer

    with ThreadPoolExecutor(CLIENTS, thread_name_prefix="veneer-client") as clients:
        return list(clients.map(answer_to, questions))


def _ask(server: HttpServer, base: str, question: CheckQuestion, versions: AdapterVersions | None) -> CheckedAnswer:
    adapter = question.adapter
    named = versions if adapter is not None else None
    mark = 0 if named is None or adapter is None else named.now(adapter)
    body = to_text(question.body(adapter or base)).encode()
    try:
        with closing(http.client.HTTPConnection(server.host, server.port, timeout=SILENCE_SECONDS)) as connection:
            connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
            if question.leaves and not question.stream:
                return CheckedAnswer(question, None, left=True)
            response = connection.getresponse()
            if question.leaves:
                response.readline()
                return CheckedAnswer(question, None, left=True)
            status, data = response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ModelError(f"the server does not answer question {question.number}: {error}") from error
    content, fingerprint, problem = _read(data, stream=question.stream and status == 200)
    possible = () if named is None or adapter is None else tuple(named.possible(adapter, mark))
    return CheckedAnswer(question, content, fingerprint, possible, error=problem)


def _read(data: bytes, *, stream: bool) -> tuple[dict[str, Any] | None, str, str | None]:
    """The answer or None, the fingerprints of what has answered, and the error if there is no answer."""
    pieces = list(_events(data)) if stream else [json.loads(data)]
    errors = [str(piece["error"]["message"]) for piece in pieces if "error" in piece]
    if errors:
        return None, "", errors[0]
    fingerprints = {str(piece["system_fingerprint"]) for piece in pieces}
    choices = [choice for piece in pieces for choice in piece["choices"]]
    content = streamed_answer(choices) if stream else whole_answer(choices[0])
    return content, " and ".join(sorted(fingerprints)), None


def _events(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.split(b"\n\n"):
        if line.startswith(b"data: {"):
            yield json.loads(line.removeprefix(b"data: "))
