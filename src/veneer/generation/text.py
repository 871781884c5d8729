"""Text of an answer as its tokens come: each token is decoded once, with a few before it, and stop strings are found.

What has been streamed is always the beginning of what decoding all tokens at once gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

REPLACEMENT_CHARACTER = "\ufffd"
"""What bytes decode to that are not a character, or not yet."""
CHARACTER_BYTES = 4
"""The most bytes of a UTF-8 character."""
WINDOW_TOKENS = CHARACTER_BYTES - 1
"""The number of tokens that are decoded again with a new one: an incomplete character has at most three bytes, and each
token has at least one."""


class TokenDecoder(Protocol):
    """Turns tokens into text (`veneer.io.tokenizer.Tokenizer`)."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of tokens."""
        ...

    @property
    def byte_tokens(self) -> frozenset[int]:
        """Tokens that are one byte each, several of which are decoded together."""
        ...


class TextStream:
    """Tokens in, text out as soon as it is certain.

    A window of the last tokens is decoded with the new ones; what that has more than was sent is their text. The window
    keeps some text of its own, because decoders strip the space before the first text. A U+FFFD at the end is held
    back, because later tokens may complete it to a character. All text before it is certain; so an endless run of bytes
    that are not text is sent too, at the usual cost per token. Control tokens have no text and are not kept.

    While tokens are single bytes, nothing is sent: such decoders read all neighbouring bytes as a whole, also across
    control tokens, and a single wrong one makes U+FFFD of them all.

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
        """Add a token. Returns the text that has become certain."""
        if self._has_no_text(token):
            return ""
        self._window.append(token)
        if token in self._bytes:
            return ""
        text = self._decoder.decode(self._window)
        held = int(text.endswith(REPLACEMENT_CHARACTER))
        piece = text[self._sent : len(text) - held]
        kept = self._decoder.decode(self._window[-WINDOW_TOKENS:])
        if kept:
            self._window, text = self._window[-WINDOW_TOKENS:], kept
        self._sent = len(text) - held
        return self._send(piece)

    def finish(self) -> str:
        """Send what was held back, and return it."""
        text = self._decoder.decode(self._window)
        piece, self._sent = text[self._sent :], len(text)
        return self._send(piece)

    @property
    def held(self) -> str:
        """The text that `finish` would send."""
        return self._decoder.decode(self._window)[self._sent :]

    @property
    def holds_bytes(self) -> bool:
        """Whether the last token that has text is a single byte, and is therefore held back."""
        return bool(self._window) and self._window[-1] in self._bytes

    def _has_no_text(self, token: int) -> bool:
        """Whether it is a control token, which decoders skip: a token with text gives some when it is decoded twice."""
        return not self._decoder.decode([token]) and not self._decoder.decode([token, token])

    @property
    def text(self) -> str:
        """All text that was sent."""
        return "".join(self._pieces)

    def _send(self, piece: str) -> str:
        if piece:
            self._pieces.append(piece)
            self._on_text(piece)
        return piece


class TokensBehind:
    """Tokens in, those behind a sequence out; all of them at the end, if it has not come.

    Args:
        sequence: the tokens that are waited for; without any, every token comes out at once.
    """

    def __init__(self, sequence: Sequence[int]):
        self._sequence = list(sequence)
        self._waits = bool(sequence)
        self._held: list[int] = []

    def push(self, token: int) -> list[int]:
        """Add a token. Returns the tokens that come out."""
        if not self._waits:
            return [token]
        self._held.append(token)
        if self._held[-len(self._sequence) :] == self._sequence:
            self._waits, self._held = False, []
        return []

    def finish(self) -> list[int]:
        """Return what was held back."""
        held, self._held = self._held, []
        return held


class StopScanner:
    """Finds the first of some strings in text that comes in pieces, and holds back a possible beginning of one."""

    def __init__(self, stops: Sequence[str]):
        self._stops = stops
        self._held = ""
        self.found: str | None = None
        """The string that was found."""

    def push(self, piece: str) -> str:
        """Add a piece. Returns the text that is certainly before every stop string."""
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
        """The text that was held back."""
        held, self._held = self._held, ""
        return held

    def finds(self, piece: str) -> bool:
        """Whether a string is found once a piece is taken, which it is not here."""
        return any(stop in self._held + piece for stop in self._stops)

    def ahead(self) -> StopScanner:
        """A copy that continues independently from here."""
        found = StopScanner(self._stops)
        found._held = self._held
        return found


class _BytesAhead:
    """Finds strings among bytes that are held back, as their characters become whole.

    Each byte is decoded a few times, however many there are before it. What is found is yet to be looked for in all
    that is held, which may be no text.
    """

    def __init__(self, decoder: TokenDecoder, scanner: StopScanner):
        self._decoder, self._scanner = decoder, scanner
        self._part: list[int] = []
        """Bytes of a character that is not whole yet."""

    def push(self, token: int) -> bool:
        """Add a byte. Returns whether it completes a string; each is reported once."""
        if self._scanner.found is not None or len(self._part) == CHARACTER_BYTES:
            return False  # bytes that are not a character never become text
        self._part.append(token)
        text = self._decoder.decode(self._part)
        if REPLACEMENT_CHARACTER in text:
            return False
        # Decoders strip the space before a text, which another one before it keeps.
        self._scanner.push(self._decoder.decode(self._part * 2)[len(text) :])
        self._part = []
        return self._scanner.found is not None


class StoppedText:
    """Tokens in, text out up to the first of some strings.

    A string may be among bytes that are held back (`TextStream`): it ends the text as soon as it is complete, because a
    model may write such bytes without end.

    Args:
        decoder: the model's tokenizer.
        stops: the strings, none of which is in the text.
    """

    def __init__(self, decoder: TokenDecoder, stops: Sequence[str]):
        self._decoder, self._stream, self._scanner = decoder, TextStream(decoder), StopScanner(stops)
        self._bytes = decoder.byte_tokens if stops else frozenset[int]()
        self._ahead: _BytesAhead | None = None
        """Receives the bytes that are held back; None if there are none."""

    @property
    def found(self) -> str | None:
        """The string that was found."""
        return self._scanner.found

    def push(self, token: int) -> str:
        """Add a token. Returns the text that is certainly before every string."""
        piece = self._scanner.push(self._stream.push(token))
        if token in self._bytes:
            self._ahead = self._ahead or _BytesAhead(self._decoder, self._scanner.ahead())
            if self._ahead.push(token) and self._scanner.finds(self._stream.held):
                piece += self._scanner.push(self._stream.finish())
        elif self._ahead is not None and not self._stream.holds_bytes:  # a control token leaves bytes before it held
            self._ahead = None
        return piece

    def finish(self) -> str:
        """The text that was held back, up to the first of the strings."""
        rest = self._scanner.push(self._stream.finish())
        return rest if self.found is not None else rest + self._scanner.finish()


def overlap(text: str, word: str) -> int:
    """The number of characters at the text's end that begin a word without completing it."""
    most = min(len(text), len(word) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(word[:size])), 0)
