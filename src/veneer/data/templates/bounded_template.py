"""A chat template for the rest of veneer: rendered in its own process, with hard limits.

`render_worker.py` is that process, and `render_limits.py` lists the limits. One process serves a template from its
first use on, or from an explicit start. It takes a while to import jinja2, in which rows can be read. It ends after
some idle seconds, and a later use starts another; in any case it ends with this process.

The child is started as a program, not forked: a fork of a process with running threads (torch's) may hang. Only numbers
and text come back from it (`render_wire.py`). This process needs no jinja2.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

from veneer.data.problems import printable
from veneer.data.templates import render_wire as wire
from veneer.data.templates.escape import GuardedChat
from veneer.data.templates.render_limits import BUDGET_SECONDS
from veneer.data.templates.turn_shape import Shape, Span
from veneer.errors import DataError

MAX_SOURCE_CHARS = 1_000_000
"""The most characters of a template. The longest templates of models have some 20,000."""
WALL_SECONDS = 10.0
"""Seconds without an answer after which the child is ended on Windows, which has no timer of processor time."""

_PROGRAM = """
import gc, sys
gc.disable()  # while modules are imported, when nothing is garbage: a twelfth of the start
sys.path[:] = sys.argv[1:]
from veneer.data.templates.render_worker import serve
gc.enable()
serve()
"""
_PACKAGE_ROOT = str(Path(__file__).parents[3])


class TemplateRefused(DataError):
    """The chat template is invalid or exceeds its limits, so it cannot write any conversation."""


class BoundedTemplate:
    """One chat template in its own process.

    Args:
        source: the Jinja source.
        tokens: the variables `bos_token`, `eos_token`, `pad_token` and `unk_token` that the template sees; one that is
            missing is undefined there.
        specials: the spellings of the tokenizer's special tokens, by which turns are told apart.
        day: the date that the template gets; None uses the clock's time, at each rendering.
        tool_source: the Jinja source for conversations with tools; None uses `source`.

    Raises:
        TemplateRefused: a source is far longer than any template; other errors are found at its first use.
    """

    def __init__(
        self,
        source: str,
        *,
        tokens: Mapping[str, str],
        specials: Sequence[str],
        day: date | None = None,
        tool_source: str | None = None,
    ) -> None:
        longest = max(len(source), len(tool_source or ""))
        if longest > MAX_SOURCE_CHARS:
            raise TemplateRefused(f"the chat template has {longest:,} characters; {MAX_SOURCE_CHARS:,} are allowed")
        self.source = source
        told = None if day is None else day.isoformat()
        self._child = _Child(wire.request("describe", source, dict(tokens), list(specials), told, tool_source))
        self._described: tuple[bool, Shape, Shape] | None = None

    def start(self) -> None:
        """Start the process unless it runs, without waiting for it.

        Raises:
            DataError: the process cannot be started.
        """
        self._child.start()

    @property
    def marks_generation(self) -> bool:
        """Whether the template itself marks the trained text, with generation blocks."""
        return self._describe()[0]

    @property
    def shape(self) -> Shape:
        """The frame that the template puts around turns.

        Raises:
            TemplateRefused: the template cannot be used.
        """
        return self._describe()[1]

    def shape_for(self, tools: Sequence[Mapping[str, Any]] | None) -> Shape:
        """`shape` for conversations with these tools, for which there may be a separate template."""
        _, shape, tool_shape = self._describe()
        return shape if tools is None else tool_shape

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The conversation as text; arguments as for `ChatTemplate.render`.

        Raises:
            DataError: the template refused the conversation or failed on it; TemplateRefused if it cannot be used.
        """
        return str(self._ask("render", list(messages), tools, add_generation_prompt)["text"])

    def find(self, chat: GuardedChat, untrained: Sequence[int] = ()) -> tuple[str, list[Span]]:
        """The guarded text of a conversation and its trained spans; see `TurnFinder.find`.

        Raises:
            DataError: see `TurnFinder.find`; TemplateRefused if the template cannot be used.
        """
        (found,) = self.receive(self.send([(chat, untrained)]))
        if isinstance(found, DataError):
            try:
                raise found
            finally:
                del found  # the error and this frame would keep each other, and so the process, alive
        return found

    def send(self, chats: Iterable[tuple[GuardedChat, Sequence[int]]]) -> int:
        """Ask to `find` several conversations without waiting.

        Returns:
            The number for receiving their answers.

        Raises:
            TemplateRefused: the template cannot be used.
        """
        return self._child.send(wire.find_request(chats))

    def receive(self, ticket: int) -> list[tuple[str, list[Span]] | DataError]:
        """Wait for the answers about conversations that were sent: for each its guarded text and trained spans, or the
        error that `find` would raise.

        Raises:
            DataError: there was not enough memory to read them; TemplateRefused if the template cannot be used.
        """
        answers = self._child.receive(ticket)
        if isinstance(answers, dict):
            raise DataError(printable(answers["error"]))
        return [DataError(printable(one)) if isinstance(one, str) else one for one in answers]

    def forget(self, tickets: Iterable[int]) -> None:
        """Give up conversations that were sent; their answers are discarded when they come."""
        self._child.forget(tickets)

    def _describe(self) -> tuple[bool, Shape, Shape]:
        if self._described is None:
            answer = self._ask("describe")
            shape, tool_shape = map(_shape, answer["shapes"])
            self._described = answer["marks_generation"], shape, tool_shape
        return self._described

    def _ask(self, verb: str, *arguments: Any) -> dict[str, Any]:
        answer = self._child.receive(self._child.send(wire.request(verb, *arguments)))
        assert isinstance(answer, dict)
        if "error" in answer:
            raise DataError(printable(answer["error"]))
        return answer


def _shape(said: Sequence[Any]) -> Shape:
    end_token, closings, headers, *others = said
    return Shape(end_token, tuple(closings), tuple(headers), *others)


_Answer = dict[str, Any] | list[tuple[str, list[Span]] | str]


class _Child:
    """The process with its pending requests. Several threads may use it."""

    def __init__(self, description: bytes) -> None:
        self._description = description
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._end: weakref.finalize[..., Any] | None = None
        self._unanswered: deque[bytes] = deque()
        self._sent = 0
        self._answers: dict[int, _Answer] = {}
        self._forgotten: set[int] = set()
        self._refused: str | None = None

    def start(self) -> None:
        with self._lock:
            if self._refused is None:
                self._ensure_started()

    def send(self, request: bytes) -> int:
        with self._lock:
            if self._refused is not None:
                raise TemplateRefused(self._refused)
            self._ensure_started()
            self._unanswered.append(request)
            self._requests.put(request)
            self._sent += 1
            return self._sent - 1

    def receive(self, ticket: int) -> _Answer:
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

    def _ensure_started(self) -> None:
        if self._process is None or self._owner != os.getpid() or not self._alive():
            self._start()

    def _alive(self) -> bool:
        # If it has ended with pending requests, this is handled where their answers are read.
        return bool(self._unanswered) or (self._process is not None and self._process.poll() is None)

    def _read(self) -> None:
        """Read the next answer, or note why there will be none."""
        process = self._process
        assert process is not None
        body = _read_frame(process)
        if body is not None:
            answer = wire.read_answer(body)
            if isinstance(answer, dict) and "invalid" in answer:
                self._refused = printable(answer["invalid"])
                return
            ticket = self._sent - len(self._unanswered)
            self._unanswered.popleft()
            if ticket in self._forgotten:
                self._forgotten.remove(ticket)
            else:
                self._answers[ticket] = answer
        elif process.wait() == 0:
            # It was idle, and ended while a request was on its way.
            self._start()
            self._requests.put(b"".join(self._unanswered))
        else:
            self._refused = _cause(process.returncode, process.stderr.read() if process.stderr else b"")

    def _start(self) -> None:
        if self._end is not None:
            if self._owner == os.getpid():
                self._end()
            else:  # this process was forked from the parent of the child
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


def _read_frame(process: subprocess.Popen[bytes]) -> bytes | None:
    """The body of the next frame, or None if the process ended before the end of the frame."""
    if sys.platform != "win32":
        return _whole_frame(process)  # the child's own timer ends it, which closes the pipe
    watch = threading.Timer(WALL_SECONDS, process.kill)
    watch.start()
    try:
        return _whole_frame(process)
    finally:
        watch.cancel()


def _whole_frame(process: subprocess.Popen[bytes]) -> bytes | None:
    assert process.stdout is not None
    head = process.stdout.read(wire.FRAME_LENGTH.size)
    if len(head) < wire.FRAME_LENGTH.size:
        return None
    (length,) = wire.FRAME_LENGTH.unpack(head)
    body = process.stdout.read(length)
    return body if len(body) == length else None


def _write(process: subprocess.Popen[bytes], requests: queue.SimpleQueue[bytes | None]) -> None:
    """Write requests as they come. A thread does this, since the child may have to be read before it accepts more."""
    assert process.stdin is not None
    while (data := requests.get()) is not None:
        try:
            process.stdin.write(data)
            process.stdin.flush()
        except (OSError, ValueError):
            return  # it has ended; the reader of its answers finds that out


def _stop(process: subprocess.Popen[bytes], requests: queue.SimpleQueue[bytes | None]) -> None:
    requests.put(None)
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        with suppress(OSError):  # data that was not written yet has no reader any more
            if stream is not None:
                stream.close()


def _cause(code: int, messages: bytes) -> str:
    """The reason why the child ended, by its exit code."""
    if sys.platform != "win32":
        import signal

        if code == -signal.SIGPROF:
            more = f"more than {BUDGET_SECONDS} seconds beyond what its rows were granted"
            return f"the chat template takes too long: {more}"
        if code == -signal.SIGKILL:
            return "the process that renders the chat template was killed by the system, perhaps for lack of memory"
    said = printable(messages.decode("utf-8", errors="replace").strip()[-300:])
    return f"the process that renders the chat template ended with code {code}{f': {said}' if said else ''}"
