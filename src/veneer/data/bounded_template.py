"""A chat template as the rest of veneer uses it: rendered in a process of its own, with hard limits.

`render_worker.py` is that process and says what is bounded. One process serves a template from its first use on. It
ends when it is idle for some seconds, and a later use starts another; it ends with this process in any case.

The child is started as a program, not forked: a fork of a process whose threads run (torch's) may hang. Nothing but
JSON comes back from it.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from veneer.data.escape import GuardedChat
from veneer.data.problems import printable
from veneer.data.render_worker import SECONDS
from veneer.data.spans import Shape, Span
from veneer.errors import DataError

MAX_SOURCE = 1_000_000
"""Characters that a template may have. The longest that models come with have some 20,000."""
WALL_SECONDS = 10.0
"""Seconds without an answer after which the child is ended, on Windows, which has no timer of processor time."""

_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from veneer.data.render_worker import serve; serve()"
_PACKAGE_ROOT = str(Path(__file__).parents[2])


class TemplateRefused(DataError):
    """The chat template is not valid or takes more than it may, so that no conversation can be written with it."""


class BoundedTemplate:
    """One chat template in a process of its own.

    Args:
        source: the Jinja source.
        tokens: the variables `bos_token`, `eos_token`, `pad_token` and `unk_token` that the template sees; one that is
            missing is undefined there.
        specials: spellings of the tokenizer's special tokens, by which turns are told apart.

    Raises:
        TemplateRefused: `source` is far longer than any template; what else is wrong with it is found at its first use.
    """

    def __init__(self, source: str, *, tokens: Mapping[str, str], specials: Sequence[str]) -> None:
        if len(source) > MAX_SOURCE:
            raise TemplateRefused(f"the chat template has {len(source):,} characters; {MAX_SOURCE:,} are allowed")
        self.source = source
        description = {"source": source, "tokens": dict(tokens), "specials": list(specials)}
        self._child = _Child(_line(description))
        self._described: tuple[bool, Shape] | None = None

    @property
    def marks_generation(self) -> bool:
        """True if the template itself says, with generation blocks, what trains."""
        return self._describe()[0]

    @property
    def shape(self) -> Shape:
        """The frame that the template puts around turns.

        Raises:
            TemplateRefused: the template cannot be used.
        """
        return self._describe()[1]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The conversation as text; arguments as `ChatTemplate.render`.

        Raises:
            DataError: the template refused the conversation or failed on it; TemplateRefused, if it cannot be used.
        """
        return str(self._ask(["render", list(messages), tools, add_generation_prompt])["text"])

    def find(self, chat: GuardedChat, untrained: Sequence[int] = ()) -> tuple[str, list[Span]]:
        """The guarded text of a conversation and what trains in it, as `TurnFinder.find`.

        Raises:
            DataError: as `TurnFinder.find`; TemplateRefused, if the template cannot be used.
        """
        (ticket,) = self.send([(chat, untrained)])
        return self.receive(ticket)

    def send(self, chats: Iterable[tuple[GuardedChat, Sequence[int]]]) -> range:
        """Ask to `find` several conversations without waiting.

        Returns:
            The numbers by which the answers are received, in order.

        Raises:
            TemplateRefused: the template cannot be used.
        """
        return self._child.send([_line(["find", chat.messages, chat.tools, untrained]) for chat, untrained in chats])

    def receive(self, ticket: int) -> tuple[str, list[Span]]:
        """Wait for the answer about a conversation that was sent: its guarded text, and the spans that train.

        Raises:
            DataError: as for `find`.
        """
        answer = _checked(self._child.receive(ticket))
        return answer["text"], [(start, end) for start, end in answer["spans"]]

    def forget(self, tickets: Iterable[int]) -> None:
        """Give up conversations that were sent; their answers are dropped when they come."""
        self._child.forget(tickets)

    def _describe(self) -> tuple[bool, Shape]:
        if self._described is None:
            answer = self._ask(["describe", []])
            end_token, closings, headers, opening, unprompted = answer["shape"]
            shape = Shape(end_token, tuple(closings), tuple(headers), opening, unprompted)
            self._described = answer["marks_generation"], shape
        return self._described

    def _ask(self, request: list[Any]) -> dict[str, Any]:
        (ticket,) = self._child.send([_line(request)])
        return _checked(self._child.receive(ticket))


class _Child:
    """The process, and what has been asked of it. Several threads may ask."""

    def __init__(self, description: bytes) -> None:
        self._description = description
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._end: weakref.finalize[..., Any] | None = None
        self._unanswered: deque[bytes] = deque()
        self._sent = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._forgotten: set[int] = set()
        self._refused: str | None = None

    def send(self, requests: Sequence[bytes]) -> range:
        with self._lock:
            if self._refused is not None:
                raise TemplateRefused(self._refused)
            if self._process is None or self._owner != os.getpid() or not self._alive():
                self._start()
            self._unanswered.extend(requests)
            self._requests.put(b"".join(requests))
            self._sent += len(requests)
            return range(self._sent - len(requests), self._sent)

    def receive(self, ticket: int) -> dict[str, Any]:
        with self._lock:
            while ticket not in self._answers and self._refused is None:
                self._read()
            if ticket in self._answers:
                return self._answers.pop(ticket)
            raise TemplateRefused(self._refused)

    def forget(self, tickets: Iterable[int]) -> None:
        with self._lock:
            for ticket in tickets:
                if self._answers.pop(ticket, None) is None and ticket >= self._sent - len(self._unanswered):
                    self._forgotten.add(ticket)

    def _alive(self) -> bool:
        # One that ended with requests before it is dealt with where its answers are read.
        return bool(self._unanswered) or (self._process is not None and self._process.poll() is None)

    def _read(self) -> None:
        """Take the next answer, or note why there will be none."""
        process = self._process
        assert process is not None
        line = _read_line(process)
        if line.endswith(b"\n"):
            answer: dict[str, Any] = json.loads(line.decode("utf-8", errors="surrogatepass"))
            if "invalid" in answer:
                self._refused = printable(answer["invalid"])
                return
            ticket = self._sent - len(self._unanswered)
            self._unanswered.popleft()
            if ticket in self._forgotten:
                self._forgotten.remove(ticket)
            else:
                self._answers[ticket] = answer
        elif process.wait() == 0:
            # It had been idle, and ended while a request was on its way.
            self._start()
            self._requests.put(b"".join(self._unanswered))
        else:
            self._refused = _cause(process.returncode, process.stderr.read() if process.stderr else b"")

    def _start(self) -> None:
        if self._end is not None:
            if self._owner == os.getpid():
                self._end()
            else:  # this process was forked from the one whose child it is
                self._end.detach()
                self._unanswered.clear()
        # The parent's own sys.path, so that the child imports the same veneer and needs no site directories.
        command = [sys.executable, "-I", "-S", "-c", _PROGRAM, *sys.path, _PACKAGE_ROOT]
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        except OSError as error:
            raise DataError(f"the process that renders chat templates cannot be started: {error}") from error
        self._process, self._owner, self._requests = process, os.getpid(), queue.SimpleQueue()
        threading.Thread(target=_write, args=(process, self._requests), daemon=True).start()
        self._end = weakref.finalize(self, _stop, process, self._requests)
        self._requests.put(self._description)


def _read_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    if sys.platform != "win32":
        return process.stdout.readline()  # the child's own timer ends it, and with it the pipe
    watch = threading.Timer(WALL_SECONDS, process.kill)
    watch.start()
    try:
        return process.stdout.readline()
    finally:
        watch.cancel()


def _write(process: subprocess.Popen[bytes], requests: queue.SimpleQueue[bytes | None]) -> None:
    """Write requests as they come: a thread's work, since the child may have to be read before it takes more."""
    assert process.stdin is not None
    while (data := requests.get()) is not None:
        try:
            process.stdin.write(data)
            process.stdin.flush()
        except (OSError, ValueError):
            return  # it has ended, which whoever reads its answers finds out


def _stop(process: subprocess.Popen[bytes], requests: queue.SimpleQueue[bytes | None]) -> None:
    requests.put(None)
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        with suppress(OSError):  # what was not written yet has no reader any more
            if stream is not None:
                stream.close()


# Parquet has values that JSON has not (dates); a template would print them as text as well.
_ENCODER = json.JSONEncoder(ensure_ascii=False, default=str)


def _line(value: Any) -> bytes:
    return _ENCODER.encode(value).encode("utf-8", errors="surrogatepass") + b"\n"


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise DataError(printable(answer["error"]))
    return answer


def _cause(code: int, messages: bytes) -> str:
    """The reason why the child ended, by its exit code."""
    if sys.platform != "win32":
        import signal

        if code == -signal.SIGPROF:
            return f"the chat template takes too long: more than {SECONDS} seconds beyond what its rows were granted"
        if code == -signal.SIGKILL:
            return "the process that renders the chat template was killed by the system, perhaps for want of memory"
    said = printable(messages.decode("utf-8", errors="replace").strip()[-300:])
    return f"the process that renders the chat template ended with code {code}{f': {said}' if said else ''}"
