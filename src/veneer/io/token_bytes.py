"""The bytes that single tokens stand for. They need not be whole characters."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from veneer.io.tokenizer import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_PRINTED = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
"""The bytes that GPT-2's tokenizers write as the character of the same number. They write the others, in order, as the
characters from 256 on."""


def token_bytes(tokenizer: Tokenizer) -> Callable[[int], bytes]:
    """A function that gives the bytes of a token: for a control token those of its name, and for a number without a
    token those of `<[number]>`."""
    backend = tokenizer.backend
    steps = list(_steps(json.loads(backend.to_str()).get("decoder")))
    kinds = {step["type"] for step in steps}
    spelt = _byte_level if "ByteLevel" in kinds else _plain(steps, falls_back="ByteFallback" in kinds)
    added = {token: text.content.encode() for token, text in backend.get_added_tokens_decoder().items()}

    def of(token: int) -> bytes:
        if token in added:
            return added[token]
        text = backend.id_to_token(token)
        return f"<[{token}]>".encode() if text is None else spelt(text)

    return of


def _steps(decoder: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The steps of a decoder, those of a sequence one by one."""
    if decoder is not None and decoder["type"] == "Sequence":
        for inner in decoder["decoders"]:
            yield from _steps(inner)
    elif decoder is not None:
        yield decoder


def _byte_level(text: str) -> bytes:
    return b"".join(_BYTE_OF.get(character, character.encode()) for character in text)


def _plain(steps: list[Mapping[str, Any]], *, falls_back: bool) -> Callable[[str], bytes]:
    spaces = [step["replacement"] for step in steps if step["type"] == "Metaspace"]
    spaces += [step["pattern"].get("String") for step in steps if step["type"] == "Replace" and step["content"] == " "]

    def spelt(text: str) -> bytes:
        byte = _BYTE.fullmatch(text) if falls_back else None
        if byte is not None:
            return bytes([int(byte[1], 16)])
        for space in filter(None, spaces):
            text = text.replace(space, " ")
        return text.encode()

    return spelt


_BYTE_OF = {chr(byte): bytes([byte]) for byte in _PRINTED} | {
    chr(256 + number): bytes([byte]) for number, byte in enumerate(sorted({*range(256)} - {*_PRINTED}))
}
