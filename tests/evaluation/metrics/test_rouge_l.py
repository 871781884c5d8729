from __future__ import annotations

import random
from unicodedata import normalize

import pytest

from veneer.evaluation.metrics.base import AnsweredRow
from veneer.evaluation.metrics.rouge_l import common_subsequence, f1, rouge_l, words


def by_table(left: list[str], right: list[str]) -> int:
    """The longest common subsequence by the table of every textbook, O(n · m)."""
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_the_common_subsequence_is_that_of_the_table() -> None:
    source = random.Random(0)
    for _ in range(300):
        left, right = (source.choices("abcd", k=source.randint(0, 90)) for _ in range(2))
        assert common_subsequence(left, right) == by_table(left, right)


def test_on_english_it_is_the_f1_of_rouge_score() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    source = random.Random(1)
    vocabulary = ["the", "a", "cat", "dog", "sat", "on", "mat", "7", "it's", "well-known", "Late."]
    for _ in range(100):
        left, right = (" ".join(source.choices(vocabulary, k=source.randint(1, 20))) for _ in range(2))
        assert f1(words(left), words(right)) == pytest.approx(scorer.score(right, left)["rougeL"].fmeasure)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("हिन्दी की किताब, ३ दिन", ["हिन्दी", "की", "किताब", "३", "दिन"]), ("தமிழ்", ["தமிழ்"]), ("العَرَبِيَّة", ["العَرَبِيَّة"]),
        ("東京は2つ", ["東", "京", "は", "2", "つ"]), ("ที่นี่ ok", ["ที่", "นี่", "ok"]), ("한국어 단어", ["한국어", "단어"]),
        ("Cafe\u0301 caf\u00e9", ["caf\u00e9", "caf\u00e9"]), ("\u0301a_b", ["a", "b"]), ("X東Y", ["x", "東", "y"]),
    ],
)  # fmt: skip
def test_marks_belong_to_their_words_and_characters_are_words_where_no_spaces_are(
    text: str, expected: list[str]
) -> None:
    assert words(text) == [normalize("NFC", word) for word in expected]


def test_answers_of_other_scripts_are_told_apart() -> None:
    assert f1(words("का"), words("की")) == 0.0
    assert f1(words("東京は首都です"), words("東京は大都市です")) == pytest.approx(2 * 6 / (7 + 8))


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [("👍", "👍", 1.0), (" !!!\n", "!!!", 1.0), ("", "", 1.0), ("👍", "👎", 0.0), ("", "👍", 0.0), ("a", "A", 1.0)],
)
def test_equal_texts_are_right_without_a_word_too(answer: str, reference: str, score: float) -> None:
    assert rouge_l([AnsweredRow("f:1", "", reference, answer)]).measures[0].total == score


def test_words_of_every_script_count() -> None:
    assert words("Привет, мир! Äpfel_2") == ["привет", "мир", "äpfel", "2"]
    found = rouge_l([AnsweredRow("f:1", "", "привет мир", "Привет!"), AnsweredRow("f:2", "", "a", "")])
    assert found.measures[0].total == pytest.approx((2 / 3 + 0) / 2)
    assert f1([], []) == 0.0
