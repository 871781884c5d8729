from __future__ import annotations

import random
import tracemalloc
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veneer.data.lint.shingles import (
    _ADDENDS,
    _BLOCK,
    _MULTIPLIERS,
    _PLACES,
    BAND_ROWS,
    BANDS,
    bands,
    common,
    shingles,
    similarity,
    without,
)


def texts(similar: float, words: int, seed: int) -> tuple[str, str]:
    """Two texts whose sets of runs of five words have about this similarity."""
    draw = random.Random(seed)
    first = [f"w{draw.randrange(10**9)}" for _ in range(words)]
    kept = round(words * 2 * similar / (1 + similar))
    second = first[:kept] + [f"w{draw.randrange(10**9)}" for _ in range(words - kept)]
    return " ".join(first), " ".join(second)


def naive(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


@given(st.lists(st.sampled_from(["a", "bb", "CC", "d"]), min_size=5, max_size=40), st.integers(0, 40))
def test_similarity_is_that_of_the_sets_of_words(words: list[str], cut: int) -> None:
    one, other = " ".join(words), " ".join([*words[:cut], "e", *words[cut:]])
    expected = len(naive(one) & naive(other)) / len(naive(one) | naive(other))
    assert similarity(shingles(one), shingles(other)) == pytest.approx(expected)


def test_case_punctuation_and_white_space_do_not_count() -> None:
    assert shingles("One two, three. Four five six!").tolist() == shingles("one  two three\nfour five six").tolist()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Привет Мир, Как Дела Сегодня Утром", "привет мир как дела сегодня утром"),
        ("ÜBER ALLES und noch mehr Straße", "über alles und noch mehr strasse"),
        ("“so it is” – said the old man… again", '"so it is" - said the old man... again'),
        ("Γειά Σου, τι κάνεις; Όλα καλά", "γειά σου τι κάνεις όλα καλά"),
        ("qu’est-ce que c’est\u202f? Un «\u00a0mot\u00a0» de plus", "qu'est-ce que c'est? un \"mot\" de plus"),
        ("今日は、天気がとても良い。散歩に行く", "今日は,天気がとても良い散歩に行く"),
    ],
)
def test_case_and_punctuation_count_in_no_script(one: str, other: str) -> None:
    assert similarity(shingles(one), shingles(other)) == 1.0
    assert shingles("का").tolist() != shingles("की").tolist(), "vowel signs count"


def test_the_numbers_of_ascii_texts_are_those_that_they_were() -> None:
    draw = random.Random(5)
    signs = [chr(code) for code in range(128)] + [" "] * 40
    made = b"".join(shingles("".join(draw.choices(signs, k=length))).tobytes() for length in range(0, 600, 7))
    assert blake2b(made, digest_size=8).hexdigest() == "c5e72c1659edaa10"
    assert shingles("One two, three. Four five six!").tolist() == [740942223, 2854136264]


def test_texts_without_spaces_are_taken_by_characters() -> None:
    one, other = "今日は天気がとても良いので散歩に行きます", "今日は天気がとても良いので散歩に行きました"
    assert 0.6 < similarity(shingles(one), shingles(other)) < 1.0


@pytest.mark.parametrize("similar", [0.5, 0.8, 0.9])
def test_bands_are_shared_as_often_as_the_formula_says(similar: float) -> None:
    pairs = [texts(similar, 400, seed) for seed in range(300)]
    hit = exact = 0.0
    for one, other in pairs:
        first, second = shingles(one), shingles(other)
        hit += bool((bands(first) == bands(second)).any())
        exact += 1 - (1 - similarity(first, second) ** BAND_ROWS) ** BANDS
    # Three standard deviations of 300 draws.
    assert abs(hit - exact) <= 3 * np.sqrt(len(pairs) * 0.25)


def test_what_nearly_all_texts_say_is_left_aside() -> None:
    opening = "answer the question with one of the following seventy seven words please"
    sets = [shingles(f"{opening} x{i} y{i} z{i} q{i} r{i} s{i}") for i in range(10)]
    boilerplate = common(sets, 0.9)
    assert set(boilerplate.tolist()) == set(shingles(opening).tolist())
    rest = [without(one, boilerplate) for one in sets]
    assert max(similarity(rest[0], other) for other in rest[1:]) == 0.0
    assert without(shingles(opening), boilerplate).tolist() == shingles(opening).tolist()


@pytest.mark.parametrize("count", [1, 7, _BLOCK, _BLOCK + 1, 3 * _BLOCK - 1])
def test_bands_are_those_of_all_hashes_ordered_at_once(count: int) -> None:
    hashes = np.random.default_rng(count).integers(0, 2**32, size=count, dtype=np.uint32)
    ordered = (hashes.astype(np.uint64)[:, None] * _MULTIPLIERS + _ADDENDS) >> np.uint64(32)
    smallest, expected = ordered.min(axis=0).reshape(BANDS, BAND_ROWS), np.full(BANDS, _PLACES[0], dtype=np.uint64)
    for row in range(BAND_ROWS):
        expected = (expected ^ smallest[:, row]) * _PLACES[row % 4]
        expected ^= expected >> np.uint64(31)
    assert bands(hashes).tolist() == (expected >> np.uint64(32)).tolist()


def test_bands_of_a_book_take_little_memory() -> None:
    hashes = np.arange(200_000, dtype=np.uint32)
    tracemalloc.start()
    bands(hashes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000
