"""Rows of preferences that contradict each other, or that teach something other than the preference.

Pairs of two equal answers are found when rows are read (`unusable-row`). An answer counts as labelled both ways only if
it is written identically: labels may distinguish case and layout. Cohen's d of the lengths is the difference of their
means divided by their common standard deviation; 0.8 is large by Cohen's own words (1988).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from veneer.data.lint.checks.duplicates import groups
from veneer.data.lint.facts import DESIRABLE, EVALUATION, TRAINING, UNDESIRABLE, FileFacts
from veneer.data.lint.rules import Cost, FileCheck, Finding, LintRule, Severity

SWAPPED = LintRule(
    "swapped-pair",
    Severity.ERROR,
    Cost.FILE,
    "prefer an answer that another row with the same prompt rejects in favour of the other one",
    "decide which answer is the better one, and remove the other rows",
)
LENGTH_BIAS = LintRule(
    "length-bias",
    Severity.WARNING,
    Cost.FILE,
    "prefer the longer answer, or the shorter one, like most of the file: length is easily learned",
    "add pairs of similar length, or use an objective of means over tokens (docs/objectives.md)",
)
RARE_LABEL = LintRule(
    "rare-label",
    Severity.WARNING,
    Cost.FILE,
    "have a label that fewer than a twentieth of the rows have",
    "collect more of them, or weight them by kto.desirable_weight and kto.undesirable_weight",
)
ONE_LABEL = LintRule(
    "one-label",
    Severity.WARNING,
    Cost.FILE,
    "have the label that all rows have: nothing tells a desirable answer from another",
    "add rows of the other label, or fine-tune on the desirable answers (objective sft)",
)
BOTH_LABELS = LintRule(
    "both-labels",
    Severity.ERROR,
    Cost.FILE,
    "have an answer that another row with the same prompt labels the other way: one of the two labels is wrong",
    "decide whether the answer is desirable, and remove the rows with the other label",
)
UNLABELLED = LintRule(
    "unlabelled",
    Severity.WARNING,
    Cost.FILE,
    "have no label, true or false, although nearly all others have one: objective kto refuses them",
    "label them true or false (1 or 0), or remove them",
)
_NEARLY_ALL_SHARE = 0.9
"""If at least this share of the rows have labels, the others should have one too."""
_NAMED_ROWS = 5
"""The number of rows that a finding names."""
_LARGE_EFFECT = 0.8
_NOTABLE_SHARE = 0.1
"""A difference below this share of the mean length does not count, however similar the lengths are."""
_FEWEST_PAIRS = 20
"""The least number of pairs for a statement about lengths."""
_RARE_SHARE = 0.05


def _run(facts: FileFacts) -> Iterator[tuple[Sequence[int], Finding]]:
    training, evaluation = (facts.usable & (facts.side == side) for side in (TRAINING, EVALUATION))
    pairs = np.flatnonzero(training & (facts.rejected != 0))
    yield from _swapped(facts, pairs)
    yield from _swapped(facts, np.flatnonzero(evaluation & (facts.rejected != 0)))
    yield from _longer(facts, pairs)
    labelled = np.flatnonzero(training & (facts.label != 0) & (facts.rejected == 0))
    yield from _both_ways(facts, labelled)
    yield from _both_ways(facts, np.flatnonzero(evaluation & (facts.label != 0) & (facts.rejected == 0)))
    yield from _unlabelled(facts, np.flatnonzero(training & (facts.rejected == 0)), len(labelled))
    for label, name in ((DESIRABLE, "true"), (UNDESIRABLE, "false")):
        rare = labelled[facts.label[labelled] == label]
        if 1 < len(rare) == len(labelled):
            yield rare.tolist(), ONE_LABEL.found(f"label {name}: all of {len(labelled):,} rows")
        if 0 < len(rare) < _RARE_SHARE * len(labelled):
            yield rare.tolist(), RARE_LABEL.found(f"label {name}: {len(rare):,} of {len(labelled):,} rows")


def _swapped(facts: FileFacts, pairs: NDArray[np.int64]) -> Iterator[tuple[Sequence[int], Finding]]:
    seen: dict[tuple[int, int, int], int] = {}
    for row in pairs.tolist():
        prompt, chosen, rejected = (int(part[row]) for part in (facts.prompt, facts.answer, facts.rejected))
        if chosen == rejected:  # up to case and layout, so a repeated pair would count as its own swap
            continue
        other = seen.get((prompt, rejected, chosen))
        if other is not None:
            yield [other, row], SWAPPED.found(f"{facts.where(other)} and {facts.where(row)}")
        seen.setdefault((prompt, chosen, rejected), row)


def _both_ways(facts: FileFacts, labelled: NDArray[np.int64]) -> Iterator[tuple[Sequence[int], Finding]]:
    for same in groups(facts.exact[labelled]):
        rows = labelled[same]
        good = facts.label[rows] == DESIRABLE
        if good.any() and not good.all():
            sides = (_named(facts, rows, good, "true"), _named(facts, rows, ~good, "false"))
            yield rows.tolist(), BOTH_LABELS.found("; ".join(sides))


def _unlabelled(facts: FileFacts, rows: NDArray[np.int64], labelled: int) -> Iterator[tuple[Sequence[int], Finding]]:
    others = rows[facts.label[rows] == 0]
    if len(others) and labelled >= _NEARLY_ALL_SHARE * len(rows):
        yield others.tolist(), UNLABELLED.found(f"{labelled:,} of {len(rows):,} rows have a label")


def _named(facts: FileFacts, rows: NDArray[np.int64], having: NDArray[np.bool_], label: str) -> str:
    """The number of rows with a label, and the first of them."""
    found = rows[having].tolist()
    more = f" and {len(found) - _NAMED_ROWS:,} more" if len(found) > _NAMED_ROWS else ""
    return f"label {label} on {len(found):,}: {', '.join(map(facts.where, found[:_NAMED_ROWS]))}{more}"


def _longer(facts: FileFacts, pairs: NDArray[np.int64]) -> Iterator[tuple[Sequence[int], Finding]]:
    if len(pairs) < _FEWEST_PAIRS:
        return
    chosen, rejected = (part[pairs].astype(np.float64) for part in (facts.answer_length, facts.rejected_length))
    spread = float(np.sqrt((chosen.var() + rejected.var()) / 2))
    effect = float(chosen.mean() - rejected.mean()) / max(spread, 1.0)
    share = abs(float(chosen.mean() - rejected.mean())) / max(1.0, float(np.concatenate((chosen, rejected)).mean()))
    if abs(effect) >= _LARGE_EFFECT and share >= _NOTABLE_SHARE:
        which = pairs[np.sign(chosen - rejected) == np.sign(effect)]
        means = f"chosen answers have {chosen.mean():.0f} characters and rejected ones {rejected.mean():.0f}"
        yield which.tolist(), LENGTH_BIAS.found(f"{means} on average, Cohen's d {effect:.2f}")


CHECK = FileCheck((SWAPPED, BOTH_LABELS, UNLABELLED, LENGTH_BIAS, RARE_LABEL, ONE_LABEL), _run)
