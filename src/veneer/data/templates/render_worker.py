"""The process in which an untrusted chat template runs: `serve` answers requests on its input until the input ends.

sandbox.py counts what a template does, but not the cost of a single operation, such as comparing, sorting or grouping
large values or multiplying large numbers. The limits of this process (render_limits.py) bound that.

Requests and answers are frames (render_wire.py), answered in order. The first request describes the template. The
process ends by itself, with code 0, if it gets no request for `IDLE_SECONDS` seconds.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from veneer.data.templates import render_wire as wire
from veneer.data.templates.escape import GuardedChat, SpecialTokens
from veneer.data.templates.render_limits import MemoryLimit, TextBudget, TimeBudget
from veneer.data.templates.spans import TurnFinder
from veneer.data.templates.template import ChatTemplate
from veneer.data.templates.turn_shape import Shape, Span
from veneer.errors import DataError

IDLE_SECONDS = 10.0

_NO_MEMORY = "the chat template failed: MemoryError: out of memory"


class Renderer:
    """One template with its budget.

    Args:
        source: the Jinja source.
        tokens: the named tokens that the template sees.
        specials: the spellings of the tokenizer's special tokens.
        day: the date that the template gets, as `2026-12-31`; None uses the clock.
        tool_source: the Jinja source for conversations with tools; None uses `source`.

    Raises:
        DataError: a source is not a template.
    """

    def __init__(
        self,
        source: str,
        tokens: dict[str, Any],
        specials: list[str],
        day: str | None,
        tool_source: str | None = None,
    ) -> None:
        self._budget, self._written = TimeBudget(), TextBudget()
        self._budget.begin(0, 0)
        now = None if day is None else datetime.fromisoformat(day)
        known = SpecialTokens(specials, {})
        self._template = self._tool_template = ChatTemplate(source, **tokens, now=now)
        self._finder = self._tool_finder = TurnFinder(self._template, known)
        if tool_source is not None:
            self._tool_template = ChatTemplate(tool_source, **tokens, now=now)
            self._tool_finder = TurnFinder(self._tool_template, known, tools=())
        self._budget.end()

    def answer(self, body: bytes) -> bytes:
        """The frame that answers a request."""
        try:
            verb, asked = wire.read_request(body)
            if verb == wire.FIND:
                return wire.find_answer(map(self._find, asked))
            self._budget.begin(len(asked[0]) if asked else 0, len(body))
            said = self._render(len(body), *asked) if verb == "render" else self._describe()
        except MemoryError:
            said = {"error": _NO_MEMORY}
        self._budget.end()
        return wire.answer(said)

    def _find(self, packed: bytes | wire.Conversation) -> tuple[str, list[Span]] | str:
        try:
            (messages, tools, untrained), size = wire.unpacked(packed)
            self._budget.begin(len(messages), size)
            chat = GuardedChat(tuple(messages), None if tools is None else tuple(tools), changed=False)
            finder = self._finder if tools is None else self._tool_finder
            found: tuple[str, list[Span]] | str = finder.find(chat, untrained)
            self._written.spend(len(found[0]), size)
        except DataError as error:
            found = str(error)
        except MemoryError:
            found = _NO_MEMORY
        self._budget.end()
        return found

    def _render(self, size: int, messages: list[Any], tools: list[Any] | None, prompt: bool) -> dict[str, Any]:
        try:
            template = self._template if tools is None else self._tool_template
            text = template.render(messages, add_generation_prompt=prompt, tools=tools)
            self._written.spend(len(text), size)
            return {"text": text}
        except DataError as error:
            return {"error": str(error)}

    def _describe(self) -> dict[str, Any]:
        return {
            "marks_generation": self._template.marks_generation,
            "shapes": [_said(finder.shape) for finder in (self._finder, self._tool_finder)],
        }


def _said(shape: Shape) -> list[Any]:
    frame = [shape.end_token, shape.closings, shape.headers, shape.opening, shape.unprompted]
    return [*frame, shape.question, shape.skips_opening, shape.lead]


def serve() -> None:
    """Answer requests until the input ends."""
    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    memory = MemoryLimit()
    renderer: Renderer | None = None
    for body in _frames(sys.stdin.fileno()):
        memory.allow(len(body))
        if renderer is None:
            _, description = wire.read_request(body)
            try:
                renderer = Renderer(*description)
            except DataError as error:
                _write(wire.answer({"invalid": str(error)}))
                return
        else:
            _write(renderer.answer(body))


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _frames(handle: int) -> Iterator[bytes]:
    """The bodies of incoming frames, until the input ends or has been silent for `IDLE_SECONDS` seconds."""
    buffer = bytearray()
    while True:
        start = wire.FRAME_LENGTH.size
        end = start + wire.FRAME_LENGTH.unpack_from(buffer)[0] if len(buffer) >= start else start
        if len(buffer) >= end > start:
            body = bytes(buffer[start:end])
            del buffer[:end]
            yield body
            continue
        if sys.platform != "win32" and not buffer and not select.select([handle], [], [], IDLE_SECONDS)[0]:
            return
        received = os.read(handle, 1 << 20)
        if not received:
            return
        buffer += received
