"""Rows that are unlike nearly all others: in length, in their keys, in their script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from veneer.data.lint.facts import TRAINING, FileFacts
from veneer.data.lint.rules import Cost, FileCheck, Finding, LintRule, Severity
from veneer.data.lint.scripts import SCRIPTS

LENGTH = LintRule(
    "outlier-length",
    Severity.INFO,
    Cost.FILE,
    "are far longer or shorter than the others",
    "look at them: they are often two rows in one, or half of one",
)
KEYS = LintRule(
    "rare-keys",
    Severity.INFO,
    Cost.FILE,
    "have other keys than nearly all others",
    "look at them: they are often of another source or version",
)
SCRIPT = LintRule(
    "rare-script",
    Severity.INFO,
    Cost.FILE,
    "answer in another script than nearly all others",
    "look at them, if the file is meant to be in one language",
)
_FEWEST = 50
"""Rows below which nothing can be said to be rare."""
_DEVIATIONS = 5.0 * 1.4826
"""Median absolute deviations of the logarithm of the length, beyond which a length is unlike the others: five standard
deviations of a normal distribution, of which the median absolute deviation is 1/1.4826."""
_FEW = 0.02
"""Share of the rows that may be called outliers of length."""
_RARE = 0.005
"""Share of the rows below which their keys, or their script, are rare."""


def _run(facts: FileFacts) -> Iterator[tuple[Sequence[int], Finding]]:
    rows = np.flatnonzero(facts.usable & (facts.side == TRAINING))
    if len(rows) < _FEWEST:
        return
    yield from _lengths(facts, rows)
    for values, rule in ((facts.shape, KEYS), (facts.script.astype(np.uint64), SCRIPT)):
        present, inverse, counts = np.unique(values[rows], return_inverse=True, return_counts=True)
        if counts.max() < 0.9 * len(rows):
            continue
        usual = int(counts.argmax())
        for kind in np.flatnonzero(counts < _RARE * len(rows)).tolist():
            name = "other keys than" if rule is KEYS else f"{SCRIPTS[int(present[kind])]}, unlike"
            if rule is SCRIPT and not present[kind]:
                continue
            text = f"{name} {100 * counts[usual] / len(rows):.1f} % of the rows"
            yield rows[inverse == kind].tolist(), rule.found(text)


def _lengths(facts: FileFacts, rows: NDArray[np.int64]) -> Iterator[tuple[Sequence[int], Finding]]:
    logs = np.log(np.maximum(facts.length[rows], 1).astype(np.float64))
    middle = float(np.median(logs))
    # Rows of one length have a deviation of 0: a tenth in the logarithm is the least that counts as one.
    deviation = max(float(np.median(np.abs(logs - middle))), 0.1)
    far = np.flatnonzero(np.abs(logs - middle) > _DEVIATIONS * deviation)
    if len(far) > _FEW * len(rows):
        # So many are no outliers: the lengths are of several kinds.
        return
    for place in far.tolist():
        unit = "tokens" if facts.targets[rows].any() else "characters"
        text = f"{facts.length[rows[place]]:,} {unit}, where the median is {np.exp(middle):,.0f}"
        yield [int(rows[place])], LENGTH.found(text)


CHECK = FileCheck((LENGTH, KEYS, SCRIPT), _run)
