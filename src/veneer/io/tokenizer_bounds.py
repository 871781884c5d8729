"""Bounds of an untrusted tokenizer, checked before it encodes a text.

A tokenizer.json is a program: patterns, and steps that may each make a text longer. The library executes it in one call
that nothing can interrupt. So everything that no real tokenizer needs is refused.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers

from veneer.bounds import VOCABULARY
from veneer.errors import ModelError
from veneer.io.pattern_probes import probes_of

GROWTH = 64
"""The largest number of characters into which a normaliser, pre-tokenizer or decoder may turn one character. Those of
real models make one or three."""
STEPS = 64
"""The largest number of steps in one of these. Real models have up to about twenty."""
AROUND = 256
"""The most tokens that may be put around a text."""
WORD = 1000
"""The largest number of characters in a word that WordPiece looks up. Each end of the word is tried; BERT has 100."""
PROBES = ("a", " ", "1", "!", "\n", "river stone, é漢 12.\n")
"""The strings that are repeated to make texts for trials of patterns."""
PROBED = 8192
"""The number of characters of the longest of these texts."""
PROBED_SHORT = 256
"""The number of characters of the longest text that repeats an alternative of a pattern, or an ASCII letter that it
names: a pattern that tries every way to split a text is already slow on far fewer."""
OWN_PROBES = 256
"""The largest number of texts that are made from what patterns name."""
SECONDS = 0.1
"""Processor time that a good pattern never reaches on most machines. Those of real models take 5 ms (Sapphire Rapids),
and one whose time grows with the square of the text takes 130 ms."""
PLAIN = 20
"""The limit of a pattern's time, as a multiple of cutting at each character. It decides if a try took longer than the
time above, since the machine may be slow or busy."""
TRIES = 5
"""Tries of both, of which the fastest count."""

_NESTED = ("normalizers", "pretokenizers", "processors", "decoders")


def check_bounds(backend: tokenizers.Tokenizer, where: str) -> None:
    """Refuse a tokenizer that could need unlimited time or memory, or draws its tokens at random.

    Args:
        backend: the tokenizer.
        where: the file, for the error.

    Raises:
        ModelError: the tokenizer exceeds the bounds above, has an id that no vocabulary has, or draws merges at random.
    """
    _check_ids(backend, where)
    _check_model(backend.model, where)
    steps = {
        name: _steps(part)
        for name, part in (
            ("normaliser", backend.normalizer),
            ("pre-tokenizer", backend.pre_tokenizer),
            ("post-processor", backend.post_processor),
            ("decoder", backend.decoder),
        )
    }
    for name, found in steps.items():
        if len(found) > STEPS:
            raise ModelError(f"{where}: its {name} has {len(found):,} steps; at most {STEPS} are taken")
        growth = math.prod(map(_growth, found))
        if growth > GROWTH:
            raise ModelError(
                f"{where}: its {name} may make a text {growth:,} times as long; at most {GROWTH} is allowed"
            )
    around = sum(map(_tokens_around, steps["post-processor"]))
    if around > AROUND:
        raise ModelError(f"{where}: its post-processor puts {around:,} tokens around a text; at most {AROUND} are put")
    patterns = [step["pattern"]["Regex"] for found in steps.values() for step in found if _has_pattern(step)]
    if patterns:
        _check_pace(backend, where, _probes(patterns))


def _check_ids(backend: tokenizers.Tokenizer, where: str) -> None:
    """Refuse ids that no vocabulary has: the library makes lists of all ids up to the largest."""
    vocab = backend.get_vocab(with_added_tokens=True)
    token = max(vocab, key=vocab.__getitem__, default="")
    if vocab.get(token, 0) >= VOCABULARY:
        raise ModelError(f"{where}: the token {token[:40]!r} has the id {vocab[token]:,}; ids are below {VOCABULARY:,}")


def _check_model(model: Any, where: str) -> None:
    if isinstance(model, models.BPE) and model.dropout:
        raise ModelError(
            f"{where}: its model leaves out merges at random (dropout {model.dropout:g}), so that a text has other "
            'tokens each time and no run can be repeated; set "dropout": null there'
        )
    if isinstance(model, models.WordPiece) and model.max_input_chars_per_word > WORD:
        raise ModelError(
            f"{where}: max_input_chars_per_word is {model.max_input_chars_per_word:,}; at most {WORD:,} are looked up"
        )


def _steps(part: Any) -> list[dict[str, Any]]:
    """The steps of a normaliser, pre-tokenizer, post-processor or decoder, those of sequences among them."""
    return [] if part is None else list(_leaves(json.loads(part.__getstate__())))


def _leaves(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    nested = [tree[key] for key in _NESTED if key in tree]
    if not nested:
        yield tree
    for one in chain.from_iterable(nested):
        yield from _leaves(one)


def _growth(step: dict[str, Any]) -> int:
    """The largest number of characters that a step makes from one, if it can do so at every character and
    repeatedly."""
    match step.get("type"):
        case "Replace":
            return max(1, len(str(step.get("content"))))
        case "Prepend":
            return max(1, len(str(step.get("prepend"))))
        case "ByteLevel":
            return 2  # a space becomes "Ġ", whose two bytes the next such step makes two characters of
    return 1


def _tokens_around(step: dict[str, Any]) -> int:
    """The number of tokens that a template puts around a text or a pair of texts."""
    if step.get("type") != "TemplateProcessing":
        return 0
    sizes = {name: len(token.get("ids", ())) for name, token in step.get("special_tokens", {}).items()}
    pieces = [*step.get("single", ()), *step.get("pair", ())]
    return sum(sizes.get(piece["SpecialToken"].get("id"), 0) for piece in pieces if "SpecialToken" in piece)


def _has_pattern(step: dict[str, Any]) -> bool:
    return isinstance(step.get("pattern"), dict) and "Regex" in step["pattern"]


def _probes(patterns: Iterable[str]) -> dict[str, int]:
    """The texts that patterns are tried on by repeating them, and the most characters of each."""
    own: dict[str, int] = {}
    for pattern in patterns:
        for text, long in probes_of(pattern).items():
            own[text] = max(own.get(text, 0), PROBED if long else PROBED_SHORT)
    return dict(islice(own.items(), OWN_PROBES)) | dict.fromkeys(PROBES, PROBED)


def _check_pace(backend: tokenizers.Tokenizer, where: str, probes: Mapping[str, int]) -> None:
    """Try the patterns on longer and longer texts: those that try every way to split a text are already slow on short
    ones.

    Args:
        backend, where: as `check_bounds`.
        probes: the texts that are repeated, and the most characters of each.

    Raises:
        ModelError: a pattern takes too long, or the library gives up.
    """
    parts: dict[str, Callable[[str], object]] = {}
    if backend.normalizer is not None:
        parts["normaliser"] = backend.normalizer.normalize_str
    if backend.pre_tokenizer is not None:
        parts["pre-tokenizer"] = backend.pre_tokenizer.pre_tokenize_str
    if backend.decoder is not None:
        decoder = backend.decoder
        parts["decoder"] = lambda text: decoder.decode([text])
    for name, tried in parts.items():
        for probe, most in probes.items():
            size = 16
            while size <= most:
                text = (probe * size)[:size]
                if _seconds(tried, text) > SECONDS and _is_slow(tried, text):
                    raise ModelError(
                        f"{where}: a pattern of its {name} takes more than {PLAIN} times as long for {size:,} "
                        "characters as cutting at each of them; use the tokenizer from the model's original repository"
                    )
                size *= 2


def _seconds(tried: Callable[[str], object], text: str) -> float:
    """The processor time of one try."""
    started = time.thread_time()
    tried(text)
    return time.thread_time() - started


def _is_slow(tried: Callable[[str], object], text: str) -> bool:
    """Whether a step itself is slow, on any machine and regardless of other work."""
    plain = pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    allowed = PLAIN * min(_seconds(plain.pre_tokenize_str, text) for _ in range(TRIES))
    return all(_seconds(tried, text) > allowed for _ in range(TRIES))
