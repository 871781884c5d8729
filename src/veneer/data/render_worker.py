"""The process in which a stranger's chat template runs: `serve` answers requests on its input until that ends.

sandbox.py counts what a template does, but not what a single operation costs: to compare, sort or group large values,
to multiply large numbers. That is bounded here, by the operating system:

- processor time: a timer ends the process when the template has used up its budget. The budget starts at `SECONDS`;
  every conversation adds to it by its size (some ten times what a template takes), and what is left over is kept up to
  `SECONDS`. So a template that is slow on every row is stopped like one that hangs on the first.
- memory: the address space may grow by `MEMORY` beyond what the interpreter takes, and by ten times the size of a row
  larger than `LARGE`.
- files: none can be written.

Windows has neither the timer nor the limits, and macOS does not keep the limit on memory. There the parent's wall clock
and the counts of sandbox.py are all that stops a template.

A request and an answer are one line of JSON each, answered in order. The first line that comes in describes the
template. The process ends by itself, with code 0, when nothing has been asked for `IDLE` seconds.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from veneer.data.escape import GuardedChat, SpecialTokens
from veneer.data.spans import TurnFinder
from veneer.data.template import ChatTemplate
from veneer.errors import DataError

SECONDS = 1.5
MEMORY = 384 << 20
LARGE = 8 << 20
PER_LARGE_BYTE = 10
IDLE = 10.0

GRANT = 0.005
GRANT_PER_TURN = 0.0002
GRANT_PER_CHARACTER = 5e-8

_ENCODER = json.JSONEncoder(ensure_ascii=False)
_TIMER = sys.platform != "win32"


class TimeBudget:
    """The processor time that the template may still use."""

    def __init__(self) -> None:
        self._left = SECONDS
        self._armed = 0.0

    def begin(self, turns: int, characters: int) -> None:
        """Start the clock for one conversation, which may be rendered once a turn."""
        rendering = GRANT_PER_TURN * turns + GRANT_PER_CHARACTER * characters
        self._left = min(self._left, SECONDS) + GRANT + (turns + 1) * rendering
        self._armed = time.process_time()
        if _TIMER:
            # The signal is not caught: the system ends the process in the middle of whatever it does.
            signal.setitimer(signal.ITIMER_PROF, max(self._left, 1e-3))

    def end(self) -> None:
        """Stop the clock."""
        if _TIMER:
            signal.setitimer(signal.ITIMER_PROF, 0)
        self._left -= time.process_time() - self._armed


class MemoryLimit:
    """The limit on the address space."""

    def __init__(self) -> None:
        self._base = _address_space()
        self._limit = 0
        if sys.platform != "win32":
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self.allow(0)

    def allow(self, size: int) -> None:
        """Set the limit for a request of that many bytes."""
        limit = self._base + MEMORY + (PER_LARGE_BYTE * size if size > LARGE else 0)
        if self._base and limit != self._limit and sys.platform != "win32":
            import resource

            _, most = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (limit if most < 0 else min(limit, most), most))
            self._limit = limit


def serve() -> None:
    """Answer requests until the input ends."""
    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    lines = _lines(sys.stdin.fileno())
    description = json.loads(next(lines, b"{}"))
    budget, memory = TimeBudget(), MemoryLimit()
    budget.begin(0, 0)
    try:
        template = ChatTemplate(description["source"], **description["tokens"])
        finder = TurnFinder(template, SpecialTokens(description["specials"], {}))
    except DataError as error:
        _answer({"invalid": str(error)})
        return
    finally:
        budget.end()
    for line in lines:
        memory.allow(len(line))
        try:
            request = json.loads(line)
            budget.begin(len(request[1]), len(line))
            answer = _result(template, finder, request)
        except MemoryError:
            answer = {"error": "the chat template failed: MemoryError: out of memory"}
        budget.end()
        _answer(answer)


def _result(template: ChatTemplate, finder: TurnFinder, request: list[Any]) -> dict[str, Any]:
    verb, *arguments = request
    try:
        if verb == "find":
            messages, tools, untrained = arguments
            text, spans = finder.find(GuardedChat(messages, tools, changed=False), untrained)
            return {"text": text, "spans": spans}
        if verb == "render":
            messages, tools, prompt = arguments
            return {"text": template.render(messages, add_generation_prompt=prompt, tools=tools)}
        shape = finder.shape
        return {
            "marks_generation": template.marks_generation,
            "shape": [shape.end_token, shape.closings, shape.headers, shape.opening, shape.unprompted],
        }
    except DataError as error:
        return {"error": str(error)}


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.buffer.write(_ENCODER.encode(answer).encode("utf-8", errors="surrogatepass") + b"\n")


def _lines(handle: int) -> Iterator[bytes]:
    """The lines of the input. Before it waits for more, the process writes out what it has answered."""
    buffer = bytearray()
    searched = 0
    while True:
        end = buffer.find(b"\n", searched)
        if end >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            searched = 0
            yield line
            continue
        searched = len(buffer)
        sys.stdout.buffer.flush()
        if sys.platform != "win32" and not buffer and not select.select([handle], [], [], IDLE)[0]:
            return
        received = os.read(handle, 1 << 20)
        if not received:
            return
        buffer += received


def _address_space() -> int:
    """Bytes of the address space that are taken, or 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
