"""Text of an answer as its tokens come: each token is decoded once, with a few before it, and stop strings are found.

What has been streamed is always the beginning of what decoding all tokens at once gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

UNCERTAIN = "\ufffd"
"""What bytes decode to that are no character, or not yet."""


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

    A window of tokens is decoded with the new ones; what that has more than the window alone is their text. The window
    begins with a token that has text of its own, because decoders strip the space before the first text. Text is
    held back while it ends with U+FFFD, of which later tokens may make a character, and while tokens stand for single
    bytes, since such decoders read all neighbouring bytes as a whole, also across control tokens.

    Args:
        decoder: the model's tokenizer.
        on_text: called with every piece; `push` and `finish` return it too.
    """

    def __init__(self, decoder: TokenDecoder, on_text: Callable[[str], None] = lambda text: None):
        self._decoder, self._on_text = decoder, on_text
        self._bytes = decoder.byte_tokens
        self._known: list[int] = []
        self._known_text = ""
        """What the tokens of `_known` decode to by themselves."""
        self._new: list[int] = []
        self._pieces: list[str] = []

    def push(self, token: int) -> str:
        """Take one more token; returns the text that has become certain."""
        self._new.append(token)
        if self._bytes and (token in self._bytes or not self._decoder.decode([token])):
            return ""
        before, after = self._known_text, self._decoder.decode(self._known + self._new)
        if after.endswith(UNCERTAIN):
            return ""
        if after:
            alone = self._decoder.decode(self._new)
            self._known, self._known_text = (self._new, alone) if alone else (self._known + self._new, after)
            self._new = []
        return self._send(after[len(before) :])

    def finish(self) -> str:
        """Send what was held back, and return it."""
        after = self._decoder.decode(self._known + self._new)
        self._new = []
        return self._send(after[len(self._known_text) :])

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
