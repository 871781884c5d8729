from __future__ import annotations

import random
from unicodedata import normalize

import numpy as np
import pytest

from veneer.errors import DataError
from veneer.evaluation.metrics.base import AnsweredRow
from veneer.evaluation.metrics.classification import MANY_LABELS, classification, macro_f1, spellings


def rows(pairs: list[tuple[str, str]]) -> list[AnsweredRow]:
    return [AnsweredRow(f"f:{i}", "", reference, answer) for i, (reference, answer) in enumerate(pairs, start=1)]


def by_definition(pairs: list[tuple[str, str]]) -> float:
    """Macro-F1 from the definition of each label's F1."""
    scores = []
    for label in {reference for reference, _ in pairs}:
        right = sum(r == a == label for r, a in pairs)
        precision = right / max(1, sum(a == label for _, a in pairs))
        recall = right / sum(r == label for r, _ in pairs)
        scores.append(2 * precision * recall / (precision + recall) if right else 0.0)
    return sum(scores) / len(scores)


def test_macro_f1_is_its_definition_on_random_labels() -> None:
    source = random.Random(0)
    for labels in (2, 5, 9):
        names = [f"label {i}" for i in range(labels)]
        pairs = [(source.choice(names), source.choice([*names, "nonsense"])) for _ in range(80)]
        found = {one.name: one.total for one in classification(rows(pairs)).measures}
        assert found["macro_f1"] == pytest.approx(by_definition(pairs))
        assert found["accuracy"] == pytest.approx(np.mean([r == a for r, a in pairs]))
        assert found["unparsable"] == pytest.approx(np.mean([a == "nonsense" for _, a in pairs]))


def test_the_confusion_matrix_has_a_column_of_unparsable_answers() -> None:
    pairs = [("no", "no"), ("no", "yes"), ("yes", "YES."), ("yes", "perhaps"), ("yes", "")]
    found = classification(rows(pairs)).details["confusion"]
    assert found == {"labels": ["no", "yes"], "counts": [[1, 1, 0], [0, 1, 2]]}


def test_an_answer_may_differ_in_case_and_punctuation_but_not_between_two_labels() -> None:
    assert spellings(["Card lost", "card arrival"]) == {"card lost": 0, "card arrival": 1}
    assert spellings(["US", "us", "them"]) == {"them": 2}
    found = classification(rows([("US", "US"), ("us", "us"), ("us", "Us"), ("them", "'Them'")]))
    assert found.details["confusion"]["counts"] == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]] or found.details[
        "confusion"
    ]["labels"] == ["US", "them", "us"]
    assert {one.name: one.total for one in found.measures}["accuracy"] == 0.75


def test_a_class_that_a_resample_does_not_hold_is_left_out() -> None:
    # Two classes; the second has neither a reference nor an answer.
    sums = np.array([[3.0, 0.0, 4.0, 0.0, 3.0, 0.0]])
    assert macro_f1(sums, count=2) == pytest.approx([6 / 7])


def test_many_references_that_do_not_look_like_labels_are_refused() -> None:
    texts = [(f"text {number}", "text 1") for number in range(MANY_LABELS + 1)]
    with pytest.raises(DataError, match=r"301 rows have 301 different references of up to 8 characters.*rouge-l"):
        classification(rows(texts))
    for few in (texts[1:], texts * 3):
        assert classification(rows(few)).measures[0].total == pytest.approx(1 / len(set(few)))


@pytest.mark.parametrize("answer", ["是。", "「是」", "是\u200b", "是！", "\u3000是"])
def test_punctuation_of_any_script_may_stand_around_a_label(answer: str) -> None:
    rows = [AnsweredRow("f:1", "", "是", answer), AnsweredRow("f:2", "", "否", "否")]
    assert classification(rows).measures[0].total == 1.0


def test_signs_of_a_label_are_no_punctuation_around_it() -> None:
    rows = [AnsweredRow("f:1", "", label, f"{label}.") for label in ("-1", "1", "C", "C#", "50%")]
    assert classification(rows).measures[0].total == 1.0


def test_how_accents_are_stored_makes_no_difference() -> None:
    rows = [
        AnsweredRow("f:1", "", normalize("NFD", "thé"), normalize("NFC", "Thé.")),
        AnsweredRow("f:2", "", normalize("NFC", "thé"), normalize("NFD", "thé")),
        AnsweredRow("f:3", "", "tea", "tea"),
    ]
    found = classification(rows)
    assert found.measures[0].total == 1.0
    assert found.details["confusion"]["labels"] == ["tea", "thé"]
