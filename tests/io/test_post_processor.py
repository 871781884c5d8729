"""Tokens stand around a text whatever characters they have."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, processors

from helpers.texts.tiny_tokenizers import byte_level_tokenizer
from veneer.io.post_processor import surround


@pytest.mark.parametrize("token", ["<s x>", "<s:1>", "$A", "$", "a:b", "<s>:0", " ", "$B:1"])
def test_a_token_of_any_text_stands_before_and_behind(token: str) -> None:
    backend = byte_level_tokenizer()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    number = backend.token_to_id(token)
    plain = backend.encode("hello", add_special_tokens=False).ids
    for bos, eos in ((token, None), (None, token), (token, token), ("<|im_start|>", token)):
        surround(backend, bos, eos)
        begin = [] if bos is None else [backend.token_to_id(bos)]
        end = [] if eos is None else [number]
        assert backend.encode("hello").ids == [*begin, *plain, *end]


@pytest.mark.parametrize("eos", [None, "<|im_end|>"])
def test_what_stands_around_a_pair_is_what_the_library_makes_of_a_template(eos: str | None) -> None:
    backend, theirs = byte_level_tokenizer(), byte_level_tokenizer()
    surround(backend, "<|im_start|>", eos)
    end = f" {eos}" if eos else ""
    theirs.post_processor = processors.TemplateProcessing(
        single=f"<|im_start|> $A{end}",
        pair=f"<|im_start|>:0 $A:0{end} <|im_start|>:1 $B:1{end and end + ':1'}",
        special_tokens=[
            (token, theirs.token_to_id(token)) for token in ("<|im_start|>", "<|im_end|>")[: 2 if eos else 1]
        ],
    )
    assert backend.post_processor.__getstate__() == theirs.post_processor.__getstate__()
