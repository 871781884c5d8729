"""Tokenizers made from GGUF metadata give llama.cpp's ids."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from helpers.support import smollm2_gguf
from helpers.texts.tiny_tokenizers import (
    Tokenize,
    byte_level_tokenizer,
    metaspace_tokenizer,
    varied_strings,
    write_vocabulary_gguf,
)
from veneer.errors import ModelError
from veneer.io.gguf.header import read_header
from veneer.io.gguf.reader import GgufCheckpoint
from veneer.io.gguf.tokenizer import CONTROL, NORMAL, PRE_TOKENIZERS, USER_DEFINED, from_gguf
from veneer.io.tokenizer import Tokenizer

Start = Callable[[Path], Tokenize]
STRINGS = varied_strings(200)


def differences(ours: Tokenizer, theirs: Tokenize, strings: list[str]) -> list[tuple[str, list[int], list[int]]]:
    pairs = [(text, ours.encode(text), theirs(text)) for text in strings]
    return [pair for pair in pairs if pair[1] != pair[2]]


def byte_level_vocabulary() -> tuple[list[str], list[int], list[str]]:
    """Tokens, types and merges of a byte-level tokenizer whose merges cross every boundary.

    It is trained on uncut text, so that a pre-tokeniser that cuts elsewhere than llama.cpp's shows in the ids.
    """
    backend = byte_level_tokenizer(vocab_size=900, cut=False)
    tree = json.loads(backend.to_str())
    vocab = backend.get_vocab(with_added_tokens=True)
    tokens = sorted(vocab, key=vocab.__getitem__)
    special = {token["content"]: 3 if token["special"] else 4 for token in tree["added_tokens"]}
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in tree["model"]["merges"]]
    return tokens, [special.get(token, 1) for token in tokens], merges


def sentence_piece_vocabulary() -> tuple[list[str], list[int], list[float]]:
    """Tokens, types and scores of the tiny Metaspace tokenizer, laid out as a SentencePiece conversion does."""
    vocab = metaspace_tokenizer().get_vocab(with_added_tokens=True)
    tokens = sorted(vocab, key=vocab.__getitem__)
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3}
    types = [6 if token.startswith("<0x") else kinds.get(token, 1) for token in tokens]
    return tokens, types, [0.0 if kind != 1 else -float(index) for index, kind in enumerate(types)]


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    return GgufCheckpoint(smollm2_gguf()).tokenizer()


def test_smollm2_equals_llama_cpp_on_200_strings(smollm2: Tokenizer, llama_cpp: Start) -> None:
    assert differences(smollm2, llama_cpp(smollm2_gguf()), STRINGS) == []


def test_smollm2_names_its_tokens(smollm2: Tokenizer) -> None:
    assert (smollm2.bos_token, smollm2.eos_token, smollm2.bos_id, smollm2.eos_id) == (
        "<|im_start|>",
        "<|im_end|>",
        1,
        2,
    )
    assert smollm2.vocab_size == 49152
    assert len(smollm2.special_tokens) == 17
    assert not smollm2.add_bos
    assert smollm2.chat_template is not None
    assert "<|im_start|>" in smollm2.chat_template


def test_smollm2_decodes_what_it_encodes(smollm2: Tokenizer) -> None:
    for text in ("Grüße, 世界! 1234 \n\t x", "def f(x):\r\n    return x", "👨‍👩‍👧‍👦 ½ ² ①"):
        assert smollm2.decode(smollm2.encode(text)) == text


def test_smollm2_saved_is_read_by_transformers(smollm2: Tokenizer, tmp_path: Path) -> None:
    smollm2.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert [theirs(text)["input_ids"] for text in STRINGS] == [
        smollm2.encode(text, add_special_tokens=True) for text in STRINGS
    ]
    assert theirs.chat_template == smollm2.chat_template
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")


@pytest.mark.parametrize("pre", ["default", "gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "gpt-4o"])
def test_byte_level_equals_llama_cpp(pre: str, llama_cpp: Start, tmp_path: Path) -> None:
    tokens, types, merges = byte_level_vocabulary()
    file = write_vocabulary_gguf(
        tmp_path / "tiny.gguf", tokens, types, model="gpt2", pre=pre, merges=merges, bos_token_id=1, eos_token_id=2
    )
    ours = GgufCheckpoint(file).tokenizer()
    assert differences(ours, llama_cpp(file), STRINGS) == []
    assert ours.add_bos == PRE_TOKENIZERS[pre].add_bos
    assert "<tool>" not in ours.special_tokens


@pytest.mark.parametrize("prefix", [True, False])
def test_sentence_piece_equals_llama_cpp(prefix: bool, llama_cpp: Start, tmp_path: Path) -> None:
    tokens, types, scores = sentence_piece_vocabulary()
    file = write_vocabulary_gguf(
        tmp_path / "tiny.gguf", tokens, types, model="llama", scores=scores, add_space_prefix=prefix,
        bos_token_id=1, eos_token_id=2, unknown_token_id=0,
    )  # fmt: skip
    ours = GgufCheckpoint(file).tokenizer()
    assert differences(ours, llama_cpp(file), STRINGS) == []
    assert ours.add_bos
    assert ours.encode("a", add_special_tokens=True)[0] == 1
    assert ours.decode(ours.encode("Hello, wörld 123 😀")) == "Hello, wörld 123 😀"


def test_pre_tokenizers_are_told_apart() -> None:
    """The comparison above would notice a wrong expression: the same merges give other ids under each."""
    tokens, types, merges = byte_level_vocabulary()
    seen = {}
    for pre in ("default", "gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "gpt-4o"):
        base = {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": types, "merges": merges}
        ours = from_gguf({f"tokenizer.ggml.{key}": value for key, value in base.items()})
        seen[pre] = json.dumps([ours.encode(text) for text in STRINGS])
    assert len(set(seen.values())) == len(seen)


def metadata(**changes: Any) -> dict[str, Any]:
    tokens, types, merges = byte_level_vocabulary()
    base = {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "token_type": types, "merges": merges, **changes}
    return {f"tokenizer.ggml.{key}": value for key, value in base.items() if value is not None}


def test_bos_and_eos_flags_are_kept() -> None:
    ours = from_gguf(metadata(bos_token_id=1, eos_token_id=2, add_bos_token=True, add_eos_token=True))
    assert ours.add_bos
    assert ours.encode("x", add_special_tokens=True) == [1, *ours.encode("x"), 2]


def test_missing_token_types_are_normal_and_missing_pre_is_default() -> None:
    ours = from_gguf(metadata(token_type=None, pre=None))
    # llama.cpp takes tokens that end a turn for control tokens whatever their type.
    assert ours.special_tokens == ("<|endoftext|>", "<|im_end|>", "</s>")
    assert len(ours.encode("<|im_start|>")) > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "qwen3"}, "did you mean 'qwen2'.*known are .*llama-bpe"),
        ({"model": "t5"}, "tokenizer model 't5'"),
        ({"model": None}, "tokenizer model None"),
        ({"tokens": None}, "tokens is missing"),
        ({"tokens": ["a", "a"]}, "has 'a' twice"),
        ({"tokens": [1, 2]}, "not a list of str"),
        ({"token_type": [1]}, "1 entries for"),
        ({"merges": ["a"]}, "parts are not tokens"),
        ({"merges": ["a zzzz"]}, "parts are not tokens"),
        ({"eos_token_id": 10**6}, "eos_token_id is 1000000"),
        ({"add_bos_token": 1}, "true or false"),
        ({"model": "llama"}, "scores has 0 entries"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_gguf(metadata(**changes))


def test_header_values_are_what_the_tokenizer_reads() -> None:
    header = read_header(smollm2_gguf())
    assert header.metadata["tokenizer.ggml.pre"] == "smollm"
    assert len(header.metadata["tokenizer.ggml.tokens"]) == 49152


def scored(tokens: list[str], types: list[int] | None = None) -> dict[str, Any]:
    """The metadata of a SentencePiece vocabulary of these tokens."""
    values = {
        "model": "llama", "tokens": ["<unk>", "▁", *tokens], "scores": [0.0] * (len(tokens) + 2),
        "token_type": [2, 1, *(types or [1] * len(tokens))],
    }  # fmt: skip
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def test_scores_stand_for_every_way_to_make_a_token_of_two() -> None:
    tokens, types, scores = sentence_piece_vocabulary()
    values = {"model": "llama", "tokens": tokens, "token_type": types, "scores": scores}
    backend = from_gguf({f"tokenizer.ggml.{key}": value for key, value in values.items()}).backend
    typed = {token: score for token, kind, score in zip(tokens, types, scores, strict=True) if kind == 1}
    ways = [(-typed[a + b], len(a), a, b) for a in typed for b in typed if a + b in typed]
    assert [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"]] == [
        (a, b) for *_, a, b in sorted(ways)
    ]


def test_a_token_as_long_as_no_model_has_is_refused_unless_it_is_found_in_the_raw_text() -> None:
    runs = ["a" * length for length in range(1, 65)]
    assert len(from_gguf(scored([*runs, "a" * 512])).encode("a" * 64)) == 2
    with pytest.raises(ModelError, match=r"more than 512 characters(.|\n)*'a{40}'… has 80,000 characters"):
        from_gguf(scored([*runs, "a" * 80_000]))
    assert from_gguf(scored(["a", "b" * 600], [1, 4])).encode("b" * 600)[-1] == 3


def test_a_vocabulary_of_more_merges_than_fit_is_refused_before_they_are_made() -> None:
    nested = ["".join(letters) * count for letters in ("a", "b", "c", "d") for count in range(1, 513)]
    with pytest.raises(ModelError, match=r"its 2,050 tokens can be made of others in more than .* no model's can"):
        from_gguf(scored(nested))


def test_byte_level_bpe_without_merges_is_refused() -> None:
    tokens, types, _ = byte_level_vocabulary()
    values = {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "token_type": types}
    with pytest.raises(ModelError, match=r"lacks tokenizer\.ggml\.merges, without which every text"):
        from_gguf({f"tokenizer.ggml.{key}": value for key, value in values.items()})


def test_thousands_of_control_tokens_are_added_at_once() -> None:
    """Gemma 3 has 6,400. Each in a call of its own, these took ten seconds; both kinds keep their types."""
    special, plain = [f"<unused{number}>" for number in range(2000)], [f"<tool{number}>" for number in range(2000)]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *special, *plain]
    types = [NORMAL] * 256 + [CONTROL] * 2000 + [USER_DEFINED] * 2000
    begun = time.process_time()
    found = from_gguf(
        {
            "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": [],
            "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types,
        }
    )  # fmt: skip
    assert time.process_time() - begun < 3
    assert found.special_tokens == tuple(special)
    assert found.encode("<tool7><unused7>") == [2263, 263]
