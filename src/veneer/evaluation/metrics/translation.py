"""BLEU and chrF by sacreBLEU, with its signature, from counts of each row, so that they can be resampled.

sacreBLEU (an extra: `pip install 'veneer[eval]'`) tokenises the texts, counts the n-grams of BLEU and computes the
scores of all rows in the details. It gives no counts for chrF, so the n-grams of chrF are counted here. The measures
are computed from the counts; the tests check that they equal sacreBLEU's scores, both of all rows and of resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from veneer.errors import ConfigError
from veneer.evaluation.metrics.base import AnsweredRow, TaskResult
from veneer.evaluation.statistics.measures import PERCENT, Floats, Measure

ORDERS = 4
"""The longest n-gram of BLEU, in words."""
CHARACTER_ORDERS = 6
"""The longest n-gram of chrF, in characters."""
BETA = 2
"""How much more recall counts than precision in chrF2."""


def sacrebleu() -> Any:
    """The module sacrebleu.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module("sacrebleu")
    except ImportError as error:
        raise ConfigError("BLEU and chrF need sacrebleu: pip install 'veneer[eval]'") from error


def bleu(rows: Sequence[AnsweredRow]) -> TaskResult:
    """Corpus BLEU, 0 to 100, as sacreBLEU computes it by default (13a, mixed case, exponential smoothing).

    Raises:
        ConfigError: sacrebleu is not installed.
    """
    metric = sacrebleu().BLEU()
    counts = []
    # Only the counts of a row's score are used: their sums are the counts of many rows.
    for row in rows:
        one = metric.corpus_score([row.answer], [[row.reference]])
        counts.append([*one.counts, *one.totals, one.sys_len, one.ref_len])
    whole = metric.corpus_score([row.answer for row in rows], [[row.reference for row in rows]])
    measure = Measure("bleu", np.array(counts, dtype=float), bleu_of, PERCENT)
    return TaskResult([measure], {"bleu": {"score": whole.score, "signature": str(metric.get_signature())}})


def bleu_of(sums: Floats) -> Floats:
    """BLEU of summed counts (Papineni et al., 2002), [..., 10] to [...]. Orders without a match are smoothed by
    halving (Chen & Cherry, 2014, method 3; `exp` in sacreBLEU)."""
    matches, totals = sums[..., :ORDERS], sums[..., ORDERS : 2 * ORDERS]
    length, reference = sums[..., -2], sums[..., -1]
    missing = (matches == 0) & (totals > 0)
    smoothed = 0.5 ** np.cumsum(missing, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precisions = np.where(missing, smoothed / totals, matches / totals)
        score = np.exp(np.log(precisions).mean(-1)) * np.minimum(1.0, np.exp(1 - reference / length))
    return np.where((matches.sum(-1) == 0) | (totals == 0).any(-1), 0.0, 100 * score)


def chrf(rows: Sequence[AnsweredRow]) -> TaskResult:
    """Corpus chrF2, 0 to 100 (Popović, 2015), as sacreBLEU computes it by default.

    Raises:
        ConfigError: sacrebleu is not installed.
    """
    metric = sacrebleu().CHRF()
    whole = metric.corpus_score([row.answer for row in rows], [[row.reference for row in rows]])
    counts = np.array([_character_counts(row.answer, row.reference) for row in rows], dtype=float)
    measure = Measure("chrf", counts, chrf_of, PERCENT)
    return TaskResult([measure], {"chrf": {"score": whole.score, "signature": str(metric.get_signature())}})


def _character_counts(answer: str, reference: str) -> list[int]:
    given, expected = ("".join(text.split()) for text in (answer, reference))
    counts = []
    for order in range(1, CHARACTER_ORDERS + 1):
        left, right = (Counter(t[i : i + order] for i in range(len(t) - order + 1)) for t in (given, expected))
        # As in sacreBLEU: an answer's n-grams do not count where the reference is too short to have any.
        counts += [left.total() if right else 0, right.total(), (left & right).total()]
    return counts


def chrf_of(sums: Floats) -> Floats:
    """chrF2 of summed counts, [..., 18] to [...]: the F of mean precision and recall over the orders that both have."""
    given, expected, both = (sums[..., part::3] for part in range(3))
    there = (given > 0) & (expected > 0)
    orders = np.maximum(there.sum(-1), 1)
    precision = np.where(there, both / np.where(there, given, 1.0), 0.0).sum(-1) / orders
    recall = np.where(there, both / np.where(there, expected, 1.0), 0.0).sum(-1) / orders
    factor = BETA**2
    below = factor * precision + recall
    return np.where(below > 0, 100 * (1 + factor) * precision * recall / np.where(below > 0, below, 1.0), 0.0)
