"""What a stranger's tokenizer.json may ask for: real ones pass, and what would take all memory or time is refused."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from time import thread_time
from typing import Any

import pytest
from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from veneer.errors import ModelError
from veneer.io import tokenizer_bounds
from veneer.io.tokenizer import from_directory
from veneer.io.tokenizer_bounds import check_bounds

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tree(**changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(Backend(models.BPE({"a": 0, "b": 1}, [])).to_str())
    return whole | changes


def read(folder: Path, content: dict[str, Any]) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(content))
    from_directory(folder)


CASE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{CASE}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{CASE}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"


@pytest.mark.parametrize("pattern", [LLAMA3, O200K, DEEPSEEK, BLOOM, r"[一-龥぀-ゟ゠-ヿ]+", r"\s+", r"(a|aa)+$"])
def test_patterns_that_come_to_an_end_pass(pattern: str) -> None:
    backend = Backend(models.BPE({"a": 0}, []))
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(use_regex=False)])
    check_bounds(backend, "t")


@pytest.mark.parametrize(
    ("part", "pattern"),
    [
        # At every character almost as many ways as the library tries before it gives up.
        ("pre_tokenizer", r"(?:.|..){0,22}[^\s\S]"),
        # At every character up to the end of the run, and on its own letters alone, which are Thai.
        ("normalizer", r"(?=([\u0E01-\u0E2E]*)[!?])[\u0E01-\u0E2E]|[\u0E01-\u0E2E]"),
    ],
)
def test_a_pattern_that_takes_long_is_refused(part: str, pattern: str, tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    replace = {"type": "Replace", "pattern": {"Regex": pattern}, "content": ""}
    name = {"pre_tokenizer": "pre-tokenizer", "normalizer": "normaliser"}[part]
    with pytest.raises(ModelError, match=rf"a pattern of its {name} takes more than 20 times as long for [\d,]+ char"):
        read(tmp_path, tree(**{part: split if part == "pre_tokenizer" else replace}))


def test_a_pattern_that_the_library_gives_up_on_at_its_own_alternatives_is_refused(tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": r"(?:xyz|xyzxyz)+!"}, "behavior": "Isolated", "invert": False}
    with pytest.raises(ModelError, match=r"tokenizer\.json.*retry-limit-in-match over"):
        read(tmp_path, tree(pre_tokenizer=split))


def test_a_pattern_is_not_blamed_for_what_else_the_machine_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """One try that takes a second, as where memory is fetched from a busy host, is followed by others."""
    backend = Backend(models.BPE({"a": 0}, []))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    clock = count()
    monkeypatch.setattr(tokenizer_bounds.time, "thread_time", lambda: thread_time() + (next(clock) >= 41))
    check_bounds(backend, "t")
    assert next(clock) > 41 + 2 * 2 * 5  # the tries of both were made


@pytest.mark.parametrize("part", ["normalizer", "decoder"])
def test_a_part_that_makes_texts_much_longer_is_refused(part: str, tmp_path: Path) -> None:
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 40}
    inside = "normalizers" if part == "normalizer" else "decoders"
    read(tmp_path, tree(**{part: {"type": "Sequence", inside: [step]}}))
    with pytest.raises(ModelError, match=r"may make a text 1,600 times as long; at most 64"):
        read(tmp_path, tree(**{part: {"type": "Sequence", inside: [step, step]}}))


def test_bytes_that_are_written_as_letters_again_and_again_are_refused(tmp_path: Path) -> None:
    bytes_as_letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    with pytest.raises(ModelError, match=r"pre-tokenizer may make a text 4,096 times as long"):
        read(tmp_path, tree(pre_tokenizer={"type": "Sequence", "pretokenizers": [bytes_as_letters] * 12}))


def test_thousands_of_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its normaliser has 3,000 steps; at most 64"):
        read(tmp_path, tree(normalizer={"type": "Sequence", "normalizers": [{"type": "NFKD"}] * 3000}))


def test_thousands_of_tokens_around_a_text_are_refused(tmp_path: Path) -> None:
    """A hundred kilobytes would become four hundred million tokens at the first text."""
    token = {"id": "X", "ids": [0] * 20_000, "tokens": ["a"] * 20_000}
    single = [{"SpecialToken": {"id": "X", "type_id": 0}}] * 20_000 + [{"Sequence": {"id": "A", "type_id": 0}}]
    pair = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
    post = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {"X": token}}
    with pytest.raises(ModelError, match="its post-processor puts 400,000,000 tokens around a text; at most 256"):
        read(tmp_path, tree(post_processor=post))


def test_a_model_that_draws_its_merges_at_random_is_refused(tmp_path: Path) -> None:
    changed = tree()
    changed["model"]["dropout"] = 0.25
    with pytest.raises(ModelError, match=r"leaves out merges at random \(dropout 0\.25\).*set \"dropout\": null"):
        read(tmp_path, changed)
    changed["model"]["dropout"] = 0.0
    read(tmp_path, changed)


def test_words_without_end_are_refused_where_each_end_of_them_is_tried(tmp_path: Path) -> None:
    pieces = {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##", "vocab": {"a": 0}}
    read(tmp_path, tree(model=pieces | {"max_input_chars_per_word": 100}))
    with pytest.raises(ModelError, match="max_input_chars_per_word is 1,000,000; at most 1,000"):
        read(tmp_path, tree(model=pieces | {"max_input_chars_per_word": 1_000_000}))
