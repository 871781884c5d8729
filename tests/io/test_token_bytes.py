"""The bytes of tokens are those that llguidance reads from the same tokenizer."""

from __future__ import annotations

import pytest
import tokenizers
from llguidance import LLTokenizer
from tokenizers import decoders, models

from helpers.texts.tiny_tokenizers import byte_level_tokenizer, metaspace_tokenizer
from veneer.io.token_bytes import token_bytes
from veneer.io.tokenizer import Tokenizer


@pytest.mark.parametrize(
    "backend",
    [byte_level_tokenizer(), metaspace_tokenizer(), metaspace_tokenizer(legacy=True)],
    ids=["bytes", "spaces", "legacy"],
)
def test_they_are_those_of_llguidance(backend: tokenizers.Tokenizer) -> None:
    size = backend.get_vocab_size() + 3  # models have more rows than tokens
    oracle, of = LLTokenizer(backend.to_str(), n_vocab=size), token_bytes(Tokenizer(backend))
    expected = [bytes(oracle.decode_bytes([token])) for token in range(size)]
    # llguidance marks control tokens by this byte, and then loses it where a token is the byte itself.
    found = [b"" if of(token) == b"\xff" else of(token) for token in range(size)]
    assert found == expected


@pytest.mark.parametrize(
    ("decoder", "expected"),
    [
        (None, ["▁the", "<0x41>", "né"]),
        (decoders.Metaspace(), [" the", "<0x41>", "né"]),
        (decoders.WordPiece(), ["▁the", "<0x41>", "né"]),
        (
            decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
            [" the", "A", "né"],
        ),
    ],
    ids=["none", "metaspace", "wordpiece", "bytes"],
)
def test_every_decoder_gives_some(decoder: decoders.Decoder | None, expected: list[str]) -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"▁the": 0, "<0x41>": 1, "né": 2}, unk_token="né"))
    if decoder is not None:
        backend.decoder = decoder
    assert [token_bytes(Tokenizer(backend))(token).decode() for token in range(4)] == [*expected, "<[3]>"]
