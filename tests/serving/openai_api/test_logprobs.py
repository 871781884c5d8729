"""Log-probabilities in OpenAI's two forms, of tokens that may be no whole characters."""

from __future__ import annotations

from veneer.generation.request import TokenLogprob
from veneer.serving.openai_api.logprobs import TextOffsets, chat_logprob, clipped, completion_logprobs, token_text

TOKENS = [b"a", b"\xc3", b"\xa9", b" b", b"a"]
HALF = "\N{REPLACEMENT CHARACTER}"


def found(token: int, logprob: float, *top: tuple[int, float]) -> TokenLogprob:
    return TokenLogprob(token, logprob, top)


def test_a_chats_token_has_its_bytes_and_its_alternatives() -> None:
    content = chat_logprob(found(1, -1.5, (0, -0.5), (1, -1.5)), TOKENS.__getitem__)
    assert content == {
        "token": HALF,
        "logprob": -1.5,
        "bytes": [0xC3],
        "top_logprobs": [
            {"token": "a", "logprob": -0.5, "bytes": [97]},
            {"token": HALF, "logprob": -1.5, "bytes": [0xC3]},
        ],
    }


def test_a_completions_tokens_have_offsets_and_nothing_for_the_first() -> None:
    places = TextOffsets()
    places.next(b"text")
    content = completion_logprobs(
        [0, 3, 1], [None, found(3, -1.0, (0, -0.1)), found(1, -2.0)], TOKENS.__getitem__, places
    )
    assert content["tokens"] == ["a", " b", HALF]
    assert content["text_offset"] == [4, 5, 7]
    assert content["token_logprobs"] == [None, -1.0, -2.0]
    assert content["top_logprobs"] == [None, {"a": -0.1, " b": -1.0}, {HALF: -2.0}]


def test_offsets_are_places_in_the_text_where_characters_take_several_tokens() -> None:
    tokens = [0, 1, 2, 3, 1, 0, 4]  # a é b ? a a
    content = completion_logprobs(tokens, [None] * len(tokens), TOKENS.__getitem__, TextOffsets())
    text = token_text(b"".join(TOKENS[token] for token in tokens))
    assert text == f"a\xe9 b{HALF}aa"
    assert content["text_offset"] == [0, 1, 1, 2, 4, 5, 6]


def test_of_two_tokens_with_one_text_the_likelier_one_counts() -> None:
    content = completion_logprobs([4], [found(4, -3.0, (0, -0.1), (4, -3.0))], TOKENS.__getitem__, TextOffsets())
    [top] = content["top_logprobs"]
    assert top == {"a": -0.1}


def test_what_is_impossible_has_a_number() -> None:
    assert clipped(float("-inf")) == -9999.0
    assert clipped(-1.25) == -1.25
    assert token_text(b"\xff") == HALF
