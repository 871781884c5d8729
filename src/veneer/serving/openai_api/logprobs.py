"""Log-probabilities in OpenAI's two forms, and the fields of a chat that ask for them."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Any

from veneer.generation.request import MAX_LOGPROBS, TokenLogprob
from veneer.http_server.fields import Fields

TokenBytes = Callable[[int], bytes]
"""The bytes of a token."""


def read_logprobs(fields: Fields) -> int | None:
    """The number of alternatives that a chat wants with each token; None if it wants no log-probabilities.

    Raises:
        ApiError: 400, one of the fields is wrong.
    """
    wanted, top = fields.flag("logprobs"), fields.integer("top_logprobs", 0, MAX_LOGPROBS)
    if top and not wanted:
        raise fields.wrong("top_logprobs", "needs logprobs: true")
    return (top or 0) if wanted else None


class TextOffsets:
    """Where the tokens of a text begin, in characters. A token that continues a character has that character's place.

    Args:
        left_out: the number of characters of the first tokens that are not in the text; tokens that begin there have
            place 0.
    """

    def __init__(self, *, left_out: int = 0) -> None:
        self._left_out = left_out
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._characters = 0

    def copy(self) -> TextOffsets:
        """A copy that continues from here."""
        copy = TextOffsets(left_out=self._left_out)
        copy._decoder.setstate(self._decoder.getstate())
        copy._characters = self._characters
        return copy

    def next(self, content: bytes) -> int:
        """The place of the next token, whose bytes are given."""
        begun, _ = self._decoder.getstate()
        goes_on = content[:1] and content[0] & 0xC0 == 0x80
        # A character that was begun but is not continued becomes a character too, U+FFFD.
        place = self._characters + bool(begun and not goes_on)
        self._characters += len(self._decoder.decode(content))
        return max(0, place - self._left_out)


def chat_logprob(scored: TokenLogprob, token_bytes: TokenBytes) -> dict[str, Any]:
    """A token in the form of chat completions."""
    top = [_entry(token, logprob, token_bytes) for token, logprob in scored.top]
    return {**_entry(scored.token, scored.logprob, token_bytes), "top_logprobs": top}


def chat_logprobs(scored: Sequence[TokenLogprob], end: TokenLogprob | None, token_bytes: TokenBytes) -> dict[str, Any]:
    """Tokens in the form of chat completions.

    Args:
        scored: the tokens of the text.
        end: the stop token after them, if there is one. It has no bytes, because it is not in the text.
        token_bytes: the bytes of a token.
    """
    content = [chat_logprob(token, token_bytes) for token in scored]
    if end is not None:
        content.append({**chat_logprob(end, token_bytes), "bytes": None})
    return {"content": content, "refusal": None}


def _entry(token: int, logprob: float, token_bytes: TokenBytes) -> dict[str, Any]:
    content = token_bytes(token)
    return {"token": token_text(content), "logprob": clipped(logprob), "bytes": list(content)}


def completion_logprobs(
    tokens: Sequence[int], scored: Sequence[TokenLogprob | None], token_bytes: TokenBytes, places: TextOffsets
) -> dict[str, Any]:
    """Tokens in the form of completions.

    Args:
        tokens: the tokens.
        scored: the log-probability of each token; None for the first token of all, which has none.
        token_bytes: gives the bytes of a token.
        places: gives the places where they begin, and knows the text before them.
    """
    contents = [token_bytes(token) for token in tokens]
    return {
        "tokens": [token_text(content) for content in contents],
        "token_logprobs": [None if token is None else clipped(token.logprob) for token in scored],
        "top_logprobs": [None if token is None else _top(token, token_bytes) for token in scored],
        "text_offset": [places.next(content) for content in contents],
    }


def _top(scored: TokenLogprob, token_bytes: TokenBytes) -> dict[str, float]:
    """The likeliest tokens and the token itself. If two have the same text, the likelier one is given."""
    top: dict[str, float] = {}
    for token, logprob in (*scored.top, (scored.token, scored.logprob)):
        top.setdefault(token_text(token_bytes(token)), clipped(logprob))
    return top


def token_text(content: bytes) -> str:
    """A token's bytes as text. The character U+FFFD replaces bytes that are not a whole character."""
    return content.decode("utf-8", errors="replace")


def clipped(logprob: float) -> float:
    """A log-probability that JSON can hold: JSON has no −∞."""
    return max(logprob, -9999.0)
