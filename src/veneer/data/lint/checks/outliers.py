"""Rows that are unlike nearly all others in length, keys or language."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veneer.data.lint.facts import TRAINING, FileFacts
from veneer.data.lint.languages import LANGUAGES
from veneer.data.lint.rules import Cost, FileCheck, Finding, LintRule, Severity

OUTLIER_LENGTH = LintRule(
    "outlier-length",
    Severity.INFO,
    Cost.FILE,
    "are far longer or shorter than the others",
    "look at them: they are often two rows in one, or half of one",
)
RARE_KEYS = LintRule(
    "rare-keys",
    Severity.INFO,
    Cost.FILE,
    "have other keys than nearly all others",
    "look at them: they often come from another source or version",
)
RARE_LANGUAGE = LintRule(
    "rare-language",
    Severity.INFO,
    Cost.FILE,
    "are in another language than nearly all others, by their answer or, if rows are prompts, by their prompt",
    "look at them, if the file is meant to be in one language",
)
_FEWEST_ROWS = 50
"""The least number of rows for which something can be called rare."""
_DEVIATIONS = 5.0 * 1.4826
"""The median absolute deviations of the logarithm of the length beyond which a length is unlike the others. They equal
five standard deviations of a normal distribution, whose median absolute deviation is 1/1.4826."""
_FEW_SHARE = 0.02
"""The largest share of rows that may be called outliers of length."""
_RARE_SHARE = 0.005
"""The share of rows below which their keys, or their language, are rare."""


def _run(facts: FileFacts) -> Iterator[tuple[Sequence[int], Finding]]:
    rows = np.flatnonzero(facts.usable & (facts.side == TRAINING))
    if len(rows) < _FEWEST_ROWS:
        return
    yield from _lengths(facts, rows)
    for kind, places in _rare(facts.shape[rows]):
        yield rows[places].tolist(), RARE_KEYS.found(f"other keys than {kind.usual:.1f} % of the rows")
    told = rows[facts.language[rows] != 0]
    for kind, places in _rare(facts.language[told]):
        text = f"{LANGUAGES[kind.value]}, and {kind.usual:.1f} % of the rows are in {LANGUAGES[kind.most]}"
        yield told[places].tolist(), RARE_LANGUAGE.found(text)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A value that few rows have while nearly all have another."""

    value: int
    most: int
    """The value that nearly all have."""
    usual: float
    """The percentage of rows that have `most`."""


def _rare(values: NDArray[Any]) -> Iterator[tuple[_Kind, NDArray[np.int64]]]:
    """Each rare value, with its places."""
    if len(values) < _FEWEST_ROWS:
        return
    present, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    if counts.max() < 0.9 * len(values):
        return
    most = int(counts.argmax())
    for kind in np.flatnonzero(counts < max(_RARE_SHARE * len(values), 2)).tolist():
        found = _Kind(int(present[kind]), int(present[most]), 100 * int(counts[most]) / len(values))
        yield found, np.flatnonzero(inverse == kind)


def _lengths(facts: FileFacts, rows: NDArray[np.int64]) -> Iterator[tuple[Sequence[int], Finding]]:
    logs = np.log(np.maximum(facts.length[rows], 1).astype(np.float64))
    middle = float(np.median(logs))
    # If all rows have one length the deviation is 0: at least a tenth in the logarithm counts as one deviation.
    deviation = max(float(np.median(np.abs(logs - middle))), 0.1)
    far = np.flatnonzero(np.abs(logs - middle) > _DEVIATIONS * deviation)
    if len(far) > _FEW_SHARE * len(rows):
        # So many are not outliers: the lengths are of several kinds.
        return
    for place in far.tolist():
        unit = "tokens" if facts.counted[rows].any() else "characters"
        text = f"{facts.length[rows[place]]:,} {unit}, while the median is {np.exp(middle):,.0f}"
        yield [int(rows[place])], OUTLIER_LENGTH.found(text)


CHECK = FileCheck((OUTLIER_LENGTH, RARE_KEYS, RARE_LANGUAGE), _run)
