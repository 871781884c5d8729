"""Streamed text is the text of all tokens at once, and stop strings are found wherever tokens are cut."""

from __future__ import annotations

import random

import pytest

from tiny_tokenizers import PIECES, byte_level_tokenizer, metaspace_tokenizer, varied_strings
from veneer.generation.text import UNCERTAIN, StopScanner, TextStream
from veneer.io.tokenizer import Tokenizer

KINDS = {
    "byte level": lambda: Tokenizer(byte_level_tokenizer()),
    "metaspace": lambda: Tokenizer(metaspace_tokenizer()),
    "metaspace, legacy": lambda: Tokenizer(metaspace_tokenizer(legacy=True)),
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return KINDS[request.param]()


def streamed(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    """The pieces, each of which must go on with the text of all tokens."""
    whole, pieces = tokenizer.decode(tokens), []
    stream = TextStream(tokenizer, pieces.append)
    for token in tokens:
        stream.push(token)
        assert whole.startswith("".join(pieces))
    stream.finish()
    assert stream.text == "".join(pieces)
    return pieces


def test_pieces_add_up_to_the_whole_text(tokenizer: Tokenizer) -> None:
    for text in varied_strings(400, seed=1):
        tokens = tokenizer.encode(text)
        assert "".join(streamed(tokenizer, tokens)) == tokenizer.decode(tokens)


def test_any_tokens_stream_as_they_decode(tokenizer: Tokenizer) -> None:
    """Also control tokens, halves of characters and bytes that are no text."""
    source = random.Random(2)
    for _ in range(400):
        tokens = [source.randrange(tokenizer.vocab_size) for _ in range(source.randint(0, 25))]
        assert "".join(streamed(tokenizer, tokens)) == tokenizer.decode(tokens)


def test_half_a_character_is_held_back(tokenizer: Tokenizer) -> None:
    for text in ("naïve 🎉 文字 𝔘", "🎉"):
        tokens = tokenizer.encode(text)
        assert not any(UNCERTAIN in piece for piece in streamed(tokenizer, tokens))


def test_text_comes_with_its_tokens() -> None:
    tokenizer = KINDS["byte level"]()
    tokens = tokenizer.encode("The quick brown fox")
    stream = TextStream(tokenizer)
    assert [stream.push(token) for token in tokens] == [tokenizer.decode([token]) for token in tokens]


def cut_somehow(text: str, source: random.Random) -> list[str]:
    places = sorted(source.randint(0, len(text)) for _ in range(source.randint(0, 6)))
    return [text[start:stop] for start, stop in zip([0, *places], [*places, len(text)], strict=True)]


def test_the_first_stop_string_ends_the_text_however_it_is_cut() -> None:
    source = random.Random(4)
    letters = "ab\n"
    found = 0
    for _ in range(3000):
        text = "".join(source.choices(letters, k=source.randint(0, 14)))
        stops = ["".join(source.choices(letters, k=source.randint(1, 4))) for _ in range(source.randint(0, 3))]
        scanner, sent = StopScanner(stops), ""
        for piece in cut_somehow(text, source):
            sent += scanner.push(piece)
            if scanner.found is not None:
                break
        if scanner.found is None:
            sent += scanner.finish()
        # The first to be complete as the text grows, character by character, ends it.
        places = [text.find(stop) for stop in stops if stop in text]
        assert (scanner.found is not None) == bool(places)
        if places:
            found += 1
            assert scanner.found is not None
            assert text.startswith(sent + scanner.found)
            assert not any(stop in sent for stop in stops)
        else:
            assert sent == text
    assert found > 500


def test_nothing_is_held_back_that_cannot_become_a_stop_string() -> None:
    scanner = StopScanner(["</end>"])
    assert [scanner.push(piece) for piece in ("a", "<", "b", "<", "/e", "nd", ">")] == ["a", "", "<b", "", "", "", ""]
    assert scanner.found == "</end>"


def test_pieces_of_every_kind_are_there() -> None:
    assert any(UNCERTAIN in piece for piece in PIECES)
