from __future__ import annotations

import random
import re
from typing import Any

import pytest

from veneer.data.templates.escape import MAX_GUARDS, RESERVED_FIRST, SpecialTokens
from veneer.errors import DataError

TOKENS = ("<s>", "</s>", "<s><s>", "[INST]", "<|end|>", "<|end|>x")
ALIASES = {token: chr(0x100000 + index) for index, token in enumerate(TOKENS)}


def special() -> SpecialTokens:
    return SpecialTokens(TOKENS, ALIASES)


def spelled(rng: random.Random) -> str:
    return "".join(rng.choice([*TOKENS, "<", "s>", "|", "word ", "é", "[IN", "x"]) for _ in range(rng.randrange(8)))


def content(text: str, tokens: SpecialTokens) -> str:
    found = tokens.guard([{"role": "user", "content": text}]).messages[0]["content"]
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize("seed", range(40))
def test_no_special_token_is_left_and_every_character_has_its_place(seed: int) -> None:
    text, tokens = spelled(random.Random(seed)), special()
    guarded = content(text, tokens)
    assert not any(token in guarded for token in TOKENS)
    assert len(guarded) == len(text)
    assert tokens.restore(guarded) == text
    assert tokens.spelled_in(text) is any(token in text for token in TOKENS)
    assert tokens.guard([{"content": text}]).changed is tokens.spelled_in(text)


def test_every_string_is_guarded_and_what_spells_nothing_is_left_as_it_is() -> None:
    tokens = special()
    message: dict[str, Any] = {"content": "x", "tool_calls": [{"function": {"name": "<s>", "arguments": {"</s>": 1}}}]}
    plain, tool = {"content": "x"}, {"name": "f", "description": "[INST]"}
    guarded = tokens.guard([message, plain], [tool])
    assert guarded.changed
    assert guarded.messages[1] is plain
    assert guarded.tools is not None
    assert not any(token in repr((guarded.messages, guarded.tools)) for token in TOKENS)
    assert message["tool_calls"][0]["function"]["name"] == "<s>"


@pytest.mark.parametrize("seed", range(40))
def test_tokens_of_the_template_become_aliases_and_positions_move_with_the_text(seed: int) -> None:
    rng, tokens = random.Random(seed), special()
    pieces: list[tuple[str, str]] = []  # as rendered, and as the tokenizer shall read it
    for _ in range(6):
        token, text = rng.choice(TOKENS), rng.choice(["word", "é <s> [", "</s>"])
        pieces += [(token, ALIASES[token]), (content(text, tokens), text)]
    # No text continues the token before it to a longer one.
    rendered = "".join(piece for piece, _ in pieces)
    borders = [sum(len(piece) for piece, _ in pieces[:index]) for index in range(len(pieces) + 1)]
    assert tokens.starts(rendered) == borders[:-1:2]
    text, moved = tokens.alias(rendered, borders)
    assert text == "".join(piece for _, piece in pieces)
    assert moved == [sum(len(piece) for _, piece in pieces[:index]) for index in range(len(pieces) + 1)]
    assert tokens.first_after(rendered, borders[2]) == (pieces[2][0], borders[3])
    assert tokens.last_within(rendered, 0, len(rendered)) == borders[-2]


def test_the_longer_of_two_tokens_at_one_place_is_the_token() -> None:
    tokens = special()
    assert tokens.first_after("a<s><s>b", 0) == ("<s><s>", 7)
    assert tokens.alias("<|end|>x", [0, 8]) == (ALIASES["<|end|>x"], [0, 1])
    assert tokens.last_within("<s>abc", 3, 6) is None
    assert tokens.first_after("abc", 0) is None


def test_characters_that_veneer_keeps_for_itself_are_refused() -> None:
    tokens = special()
    with pytest.raises(DataError, match=re.escape(f"U+{RESERVED_FIRST:X}, which veneer reserves")):
        tokens.guard([{"content": chr(RESERVED_FIRST)}])
    with pytest.raises(DataError, match="U\\+100000, which veneer needs to tell them apart"):
        tokens.alias(f"<s>{ALIASES['<s>']}", [])


def test_a_tokenizer_without_special_tokens_guards_nothing() -> None:
    tokens = SpecialTokens((), {})
    assert content("<s>", tokens) == "<s>"
    assert tokens.alias("<s>", [0, 3]) == ("<s>", [0, 3])


def test_more_first_characters_than_stand_ins_are_refused() -> None:
    many = [chr(0x4E00 + index) for index in range(MAX_GUARDS + 1)]
    SpecialTokens(many[:-1], {})
    with pytest.raises(DataError, match="at most 240"):
        SpecialTokens(many, {})
