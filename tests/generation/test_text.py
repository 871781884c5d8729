"""Streamed text is the text of all tokens at once, and stop strings are found wherever tokens are cut."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from helpers.texts.tiny_tokenizers import PIECES, byte_level_tokenizer, metaspace_tokenizer, varied_strings
from veneer.generation.text import REPLACEMENT_CHARACTER, StoppedText, StopScanner, TextStream, TokensBehind
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


@pytest.mark.parametrize(
    ("sequence", "tokens", "expected"),
    [
        ([], [1, 2], [1, 2]),
        ([7], [1, 7, 2, 7, 3], [2, 7, 3]),
        ([7, 8], [7, 7, 8, 1], [1]),
        ([7, 8], [7, 1, 8, 2], [7, 1, 8, 2]),
        ([7, 8], [7, 8], []),
        ([7, 8], [], []),
    ],
)
def test_tokens_behind_a_sequence_come_out_at_once_and_all_if_it_does_not_come(
    sequence: list[int], tokens: list[int], expected: list[int]
) -> None:
    behind = TokensBehind(sequence)
    pushed = [one for token in tokens for one in behind.push(token)]
    assert pushed + behind.finish() == expected
    assert behind.finish() == []
    if sequence and len(expected) < len(tokens):
        assert pushed == expected


def test_half_a_character_is_held_back(tokenizer: Tokenizer) -> None:
    for text in ("naïve 🎉 文字 𝔘", "🎉"):
        tokens = tokenizer.encode(text)
        assert not any(REPLACEMENT_CHARACTER in piece for piece in streamed(tokenizer, tokens))


def letters_of(tokenizer: Tokenizer) -> dict[int, int]:
    """The token of each byte."""
    if tokenizer.byte_tokens:
        return {byte: token_of(tokenizer, f"<0x{byte:02X}>") for byte in range(256)}
    # GPT-2's letters: bytes that are printed stand for themselves, the others are counted up from 256.
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}
    return {byte: token_of(tokenizer, letter) for byte, letter in letters.items()}


def token_of(tokenizer: Tokenizer, text: str) -> int:
    token = tokenizer.backend.token_to_id(text)
    assert token is not None
    return token


def control_token(tokenizer: Tokenizer) -> int:
    return token_of(tokenizer, "</s>" if tokenizer.byte_tokens else "<|im_end|>")


def test_bytes_that_are_no_text_stream_as_they_decode(tokenizer: Tokenizer) -> None:
    """Characters cut anywhere, with bytes, control tokens and words left out, put in and doubled between them."""
    source = random.Random(3)
    letters = letters_of(tokenizer)
    assert tokenizer.decode([letters[byte] for byte in "文🎉".encode()]) == "文🎉"
    wrong = [letters[byte] for byte in (0x80, 0xBF, 0xC0, 0xC3, 0xE0, 0xE4, 0xED, 0xF0, 0xF4, 0xF8, 0xFF, 0x20, 0x41)]
    for _ in range(3000):
        tokens: list[int] = []
        for _ in range(source.randint(1, 12)):
            whole = [letters[byte] for byte in source.choice("é文🎉𝔘 a\ufffd").encode()]
            other = source.choice([control_token(tokenizer), source.choice(wrong), *tokenizer.encode(" naïve 🎉 b")])
            tokens += source.choice([whole, whole, whole[: source.randint(0, 4)], whole[1:], [other], [other] * 4])
            if source.random() < 0.2:
                tokens.insert(source.randint(0, len(tokens)), control_token(tokenizer))
        assert "".join(streamed(tokenizer, tokens)) == tokenizer.decode(tokens)


class Counted:
    """A decoder that counts the tokens that it decodes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.byte_tokens = tokenizer.byte_tokens
        self.tokens = 0

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        self.tokens += len(ids)
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)


def repeated(tokenizer: Tokenizer) -> dict[str, list[int]]:
    """What a model may write without end, by what it is."""
    letters = letters_of(tokenizer)
    halves = [letters[byte] for byte in "文".encode()[:2]]
    control = [control_token(tokenizer)]
    word = tokenizer.encode(" a")
    space = [] if not tokenizer.byte_tokens else [token_of(tokenizer, "▁")]
    found = {"bytes": [letters[0xFF]], "halves": halves, "controls": control, "both": halves + control, "words": word}
    return found | ({"spaces": space, "spaces after bytes": [*halves * 50, *word, *space * 50]} if space else {})


def test_every_token_costs_as_much_whatever_a_model_writes(tokenizer: Tokenizer) -> None:
    for what, tokens in repeated(tokenizer).items():
        for before in ([], tokenizer.encode("Hello")):
            cost = []
            for times in (200, 400):
                decoder = Counted(tokenizer)
                stream = TextStream(decoder)
                for token in [*before, *tokens * times]:
                    stream.push(token)
                stream.finish()
                cost.append(decoder.tokens)
                assert stream.text == tokenizer.decode([*before, *tokens * times])
            assert cost[1] <= 2 * cost[0] + 20, what


@pytest.mark.parametrize("what", ["bytes", "halves", "both"])
def test_bytes_without_end_that_are_no_text_are_sent_as_they_come(what: str) -> None:
    tokenizer = KINDS["byte level"]()
    tokens = repeated(tokenizer)[what] * 50
    stream = TextStream(tokenizer)
    for place, token in enumerate(tokens, 1):
        stream.push(token)
        assert len(stream.text) >= len(tokenizer.decode(tokens[:place])) - 1
    assert set(stream.text) == {REPLACEMENT_CHARACTER}


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


def until_stopped(text: StoppedText, tokens: list[int]) -> tuple[str, int]:
    """The text up to the string that ends it, and how many tokens were taken for it."""
    said = ""
    for count, token in enumerate(tokens, 1):
        said += text.push(token)
        if text.found is not None:
            return said, count
    return said + text.finish(), len(tokens)


@pytest.mark.parametrize("before", ["", "a", "a ", "文"])
@pytest.mark.parametrize("stop", ["\n", "\n\n", "é", "文\n", "\n ", "\n\ufffd"])
def test_a_stop_string_of_bytes_ends_a_text_as_soon_as_it_is_whole(
    tokenizer: Tokenizer, stop: str, before: str
) -> None:
    letters = letters_of(tokenizer)
    start = tokenizer.encode(before) if before else []
    tokens = [*start, *(letters[byte] for byte in stop.encode())]
    more = [letters[byte] for byte in ("文" * 20).encode()]
    said, count = until_stopped(StoppedText(tokenizer, ["never", stop]), tokens + more)
    assert said == tokenizer.decode(start)
    # A U+FFFD may be what bytes that are no text decode to: it is certain with the next token that is no byte.
    assert count == len(tokens) or REPLACEMENT_CHARACTER in stop


def test_text_up_to_a_stop_string_is_that_of_all_tokens_whatever_a_model_writes(tokenizer: Tokenizer) -> None:
    """Bytes that are no text may make no text of those before them, so that an answer may end where it would not."""
    source = random.Random(5)
    letters = letters_of(tokenizer)
    stops = ["\n", "ab", "é", "a\n文", " \n"]
    parts = [*("é文🎉a\nb " for _ in range(9)), "\ufffd"]
    early = 0
    for _ in range(2000):
        tokens: list[int] = []
        for _ in range(source.randint(1, 12)):
            whole = [letters[byte] for byte in source.choice(source.choice(parts)).encode()]
            other = [source.choice([control_token(tokenizer), letters[0xFF], *tokenizer.encode(" ab")])]
            tokens += source.choice([whole, whole, whole, whole[:-1], other])
        own = source.sample(stops, source.randint(0, 3))
        text = StoppedText(tokenizer, own)
        said, count = until_stopped(text, tokens)
        whole_text = tokenizer.decode(tokens[:count])
        places = [place for stop in own if (place := whole_text.find(stop)) >= 0]
        assert said == (whole_text[: min(places)] if places else whole_text)
        assert (text.found is not None) == bool(places)
        early += bool(places) and count < len(tokens)
    assert early > 300


def test_bytes_cost_as_much_each_where_a_stop_string_is_looked_for(tokenizer: Tokenizer) -> None:
    letters = letters_of(tokenizer)
    for what in (b"\n", "文".encode(), b"\xff", b" \n", b"\xff\n"):
        cost = []
        for times in (200, 400):
            decoder = Counted(tokenizer)
            until_stopped(StoppedText(decoder, ["\nend", " \n文"]), [letters[byte] for byte in what] * times)
            cost.append(decoder.tokens)
        assert cost[1] <= 2 * cost[0] + 20, what


def test_pieces_of_every_kind_are_there() -> None:
    assert any(REPLACEMENT_CHARACTER in piece for piece in PIECES)
