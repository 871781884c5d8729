"""Long texts in windows, against the tokens of the whole text."""

from __future__ import annotations

import random

import pytest
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers

from helpers.texts import chat_templates as ct
from veneer.data.encoded.chat import Encoder
from veneer.data.encoded.windows import in_windows
from veneer.data.forms.record import Record
from veneer.data.templates.turn_shape import Span

WORDS = [
    "river",
    "stone",
    "1234567",
    "counted",
    "claims,",
    "é漢字",
    "\n\n",
    "   ",
    "don't",
    "aaaaaaaaaaaaaaaaaaaa",
    "🙂",
]


def text_of(length: int, seed: int) -> str:
    draw = random.Random(seed)
    text = ""
    while len(text) < length:
        text += draw.choice(WORDS) + draw.choice(("", " ", " ", "\t", "."))
    return text[:length]


def trained(kind: str) -> tokenizers.Tokenizer:
    """A tokenizer whose rules for where words end are those of a family."""
    sample = [text_of(4000, seed) for seed in range(3)]
    trainer: trainers.Trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend = tokenizers.Tokenizer(models.BPE())
    match kind:
        case "gpt2":
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        case "digits by threes":
            digits = pre_tokenizers.Split(Regex(r"\d{1,3}|\s+(?!\S)|\s+"), "isolated")
            backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(use_regex=False)])
        case "no words":  # Llama 2: the whole text is one word
            backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
            trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False)
        case "unigram":
            backend = tokenizers.Tokenizer(models.Unigram())
            backend.normalizer = normalizers.NFKC()
            backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
            trainer = trainers.UnigramTrainer(vocab_size=200, show_progress=False, unk_token="<unk>",
                                              special_tokens=["<unk>"])  # fmt: skip
    backend.train_from_iterator(sample, trainer)
    return backend


@pytest.mark.parametrize("kind", ["gpt2", "digits by threes", "no words", "unigram"])
def test_the_tokens_of_windows_are_those_of_the_whole(kind: str) -> None:
    backend = trained(kind)

    def encoded(text: str) -> tuple[list[int], list[Span]]:
        found = backend.encode(text, add_special_tokens=False)
        return found.ids, found.offsets

    for seed in range(5):
        text = text_of(20_000, 100 + seed)
        ids, ranges = encoded(text)
        seen: list[int] = []

        def watched(part: str, seen: list[int] = seen) -> tuple[list[int], list[Span]]:
            seen.append(len(part))
            return encoded(part)

        found, places = in_windows(watched, text, [7], [8, 9], window=1500, edge=100)
        assert found.tolist() == [7, *ids, 8, 9]
        assert list(places) == [(0, 0), *ranges, (len(text), len(text)), (len(text), len(text))]
        assert places[-4] == ranges[-2]
        assert max(seen) == 1500, "no window had to be made longer"


def test_a_window_grows_where_none_agrees_with_it() -> None:
    # One unknown token holds a word of any length.
    backend = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()

    def encoded(text: str) -> tuple[list[int], list[Span]]:
        found = backend.encode(text)
        return found.ids, found.offsets

    text = "a b " * 500 + "x" * 9000 + " a b" * 2000 + "y" * 3000
    found, places = in_windows(encoded, text, window=1000, edge=100)
    ids, ranges = encoded(text)
    assert found.tolist() == ids
    assert list(places) == ranges


def test_how_far_a_text_is_is_told_window_by_window() -> None:
    backend = trained("gpt2")
    done: list[int] = []

    def encoded(text: str) -> tuple[list[int], list[Span]]:
        found = backend.encode(text, add_special_tokens=False)
        return found.ids, found.offsets

    in_windows(encoded, text_of(10_000, 5), (), (), done.append, window=2000, edge=100)
    assert len(done) >= 5
    assert sum(done) == 10_000
    in_windows(encoded, "short", (), (), done.append)
    assert sum(done) == 10_000


@pytest.mark.parametrize("name", ["chatml", "mistral", None])
def test_a_long_text_is_encoded_as_a_short_one_is(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = ct.tokenizer(name)
    record = Record("f:1", text=text_of(6000, 3) + (tokenizer.eos_token or "") + text_of(500, 4))
    whole = Encoder(tokenizer, None).encode(record)
    monkeypatch.setattr(in_windows, "__kwdefaults__", {"window": 1000, "edge": 60})
    assert Encoder(tokenizer, None).encode(record).tokens.tolist() == whole.tokens.tolist()
    assert Encoder(tokenizer, None).encode(record).loss_mask.tolist() == whole.loss_mask.tolist()
