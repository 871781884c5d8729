from __future__ import annotations

import random
import sys

import numpy as np
import pytest

from veneer.errors import ConfigError
from veneer.evaluation.metrics.base import AnsweredRow
from veneer.evaluation.metrics.translation import bleu, bleu_of, chrf
from veneer.evaluation.statistics.compare import contrast, describe
from veneer.evaluation.statistics.shares import tango, wilson

WORDS = ["the", "a", "cat", "Dog", "sat", "on", "mat", "its", "café", "7.5", "well,", "“so”", "нет"]


def rows(seed: int, count: int, longest: int = 12) -> list[AnsweredRow]:
    source = random.Random(seed)
    found = []
    for i in range(count):
        reference = source.choices(WORDS, k=source.randint(1, longest))
        answer = [word if source.random() < 0.7 else source.choice(WORDS) for word in reference]
        found.append(AnsweredRow(f"f:{i}", "", " ".join(reference), " ".join(answer[: source.randint(0, longest)])))
    return found


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_rows_without_a_match_leave_the_doubt_of_rows_that_were_not_drawn(name: str) -> None:
    pytest.importorskip("sacrebleu")
    wrong = {"bleu": bleu, "chrf": chrf}[name]([AnsweredRow(f"f:{n}", "q", "aaaa bbbb", "cccc dddd") for n in range(8)])
    (alone,), (both,) = describe(wrong.measures), contrast(wrong.measures, [wrong.measures])
    assert (alone.low, alone.high) == pytest.approx([100 * float(end) for end in wilson(0, 8)])
    assert (both.low, both.high) == pytest.approx([100 * float(end) for end in tango(0, 0, 8)])


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_the_score_of_summed_counts_is_sacrebleus(name: str) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    metric, oracle = {"bleu": (bleu, sacrebleu.BLEU()), "chrf": (chrf, sacrebleu.CHRF())}[name]
    for seed, count, longest in ((0, 1, 12), (1, 30, 12), (2, 20, 3), (3, 8, 1), (4, 200, 20)):
        made = rows(seed, count, longest)
        found = metric(made)
        expected = oracle.corpus_score([row.answer for row in made], [[row.reference for row in made]])
        (measure,) = found.measures
        assert measure.total == pytest.approx(expected.score, abs=1e-9)
        assert found.details[name]["score"] == pytest.approx(expected.score)
        # A resample of rows has the score of those rows.
        drawn = np.random.default_rng(seed).integers(0, count, size=count)
        again = [made[i] for i in drawn]
        value = float(measure.value(measure.counts[drawn].sum(0)))
        assert value == pytest.approx(
            oracle.corpus_score([row.answer for row in again], [[row.reference for row in again]]).score, abs=1e-9
        )


def test_the_signature_says_how_it_was_computed() -> None:
    pytest.importorskip("sacrebleu")
    assert "tok:13a|smooth:exp" in bleu(rows(0, 3)).details["bleu"]["signature"]
    assert "nc:6|nw:0" in chrf(rows(0, 3)).details["chrf"]["signature"]


def test_no_match_is_nothing() -> None:
    assert bleu_of(np.array([0, 0, 0, 0, 5, 4, 3, 2, 5, 5], dtype=float)) == 0.0
    assert bleu_of(np.zeros(10)) == 0.0


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ConfigError, match=r"pip install 'veneer\[eval\]'"):
        bleu(rows(0, 1))
