"""Text of an answer as its tokens come: each token is decoded once, with a few before it, and stop strings are found.

What has been streamed is always the beginning of what decoding all tokens at once gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

UNCERTAIN = "\ufffd"
"""What bytes decode to that are no character, or not yet."""
WINDOW = 3
"""Tokens that are decoded again with a new one: a character of UTF-8 has at most four bytes, so that a part of one has
three at most, and each token has one at least."""


class TokenDecoder(Protocol):
    """What turns tokens into text (`veneer.io.tokenizer.Tokenizer`)."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of tokens."""
        ...

    @property
    def byte_tokens(self) -> frozenset[int]:
        """Tokens that stand for one byte each, several of which are decoded together."""
        ...


class TextStream:
    """Tokens in, text out as soon as it is certain.

    A window of the last tokens is decoded with the new ones; what that has more than was sent is their text. The window
    has text of its own, because decoders strip the space before the first text. A U+FFFD at the end is held back, of
    which later tokens may make a character; all before it is certain, so that bytes without end that are no text are
    sent, and cost as much each as other tokens. Control tokens have no text and are not kept.

    While tokens stand for single bytes nothing is sent: such decoders read all neighbouring bytes as a whole, also
    across control tokens, and a single wrong one makes U+FFFD of them all.

    Args:
        decoder: the model's tokenizer.
        on_text: called with every piece; `push` and `finish` return it too.
    """

    def __init__(self, decoder: TokenDecoder, on_text: Callable[[str], None] = lambda text: None):
        self._decoder, self._on_text = decoder, on_text
        self._bytes = decoder.byte_tokens
        self._window: list[int] = []
        """The last tokens: those that are decoded again, and those of which nothing was sent."""
        self._sent = 0
        """Characters of the window's text that were sent, or stand for some that were."""
        self._pieces: list[str] = []

    def push(self, token: int) -> str:
        """Take one more token; returns the text that has become certain."""
        if self._has_no_text(token):
            return ""
        self._window.append(token)
        if token in self._bytes:
            return ""
        text = self._decoder.decode(self._window)
        held = int(text.endswith(UNCERTAIN))
        piece = text[self._sent : len(text) - held]
        kept = self._decoder.decode(self._window[-WINDOW:])
        if kept:
            self._window, text = self._window[-WINDOW:], kept
        self._sent = len(text) - held
        return self._send(piece)

    def finish(self) -> str:
        """Send what was held back, and return it."""
        text = self._decoder.decode(self._window)
        piece, self._sent = text[self._sent :], len(text)
        return self._send(piece)

    def _has_no_text(self, token: int) -> bool:
        """Whether it is a control token, which decoders never see: a space is there when it comes twice."""
        return not self._decoder.decode([token]) and not self._decoder.decode([token, token])

    @property
    def text(self) -> str:
        """All that was sent."""
        return "".join(self._pieces)

    def _send(self, piece: str) -> str:
        if piece:
            self._pieces.append(piece)
            self._on_text(piece)
        return piece


class StopScanner:
    """Finds the first of some strings in a text that comes in pieces, and holds back what may be its beginning."""

    def __init__(self, stops: Sequence[str]):
        self._stops = stops
        self._held = ""
        self.found: str | None = None
        """The string that was found."""

    def push(self, piece: str) -> str:
        """Take a piece; returns the text that is before every stop string for certain."""
        text = self._held + piece
        places = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            place, self.found = min(places)
            self._held = ""
            return text[:place]
        held = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, word: str) -> int:
    """Number of characters at the text's end that are the beginning of a word, the whole word not counted."""
    most = min(len(text), len(word) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(word[:size])), 0)
