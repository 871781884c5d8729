"""Rows that are nearly what another row is, and evaluation rows that are nearly training rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from veneer.data.lint.checks.duplicates import groups
from veneer.data.lint.clusters import clusters
from veneer.data.lint.facts import EVALUATION, TRAINING, FileFacts
from veneer.data.lint.rules import Cost, FileCheck, Finding, LintRule, Severity
from veneer.data.lint.shingles import SIMILARITY

NEAR_DUPLICATE = LintRule(
    "near-duplicate",
    Severity.INFO,
    Cost.FILE,
    "are nearly the same as an earlier row",
    "keep one of each, unless such small differences are what is to be learnt",
)
MANY_NEAR_DUPLICATES = LintRule(
    "many-near-duplicates",
    Severity.WARNING,
    Cost.FILE,
    "are nearly the same as an earlier row, and they are 5 % of the file or more",
    "keep one of each, unless such small differences are what is to be learnt",
)
LEAKED_NEARLY = LintRule(
    "leaked-nearly",
    Severity.WARNING,
    Cost.FILE,
    "stand in the evaluation file and are nearly the same as a training row",
    "remove one of the two, or split with near-duplicates on one side: data.split {by: near-duplicates}",
)
_MANY = 0.05


def _run(facts: FileFacts) -> Iterator[tuple[Sequence[int], Finding]]:
    roots = clusters(facts.bands, facts.shingles.read, SIMILARITY)
    near: list[tuple[int, int]] = []
    for members in groups(roots):
        train = [int(row) for row in members if facts.side[row] == TRAINING]
        if train:
            # Rows of equal content, or with an equal question, are found by other rules.
            known: set[int] = set()
            for row in train:
                said = {int(facts.content[row]), int(facts.prompt[row])} - {0}
                if known and not known & said:
                    near.append((row, train[0]))
                known |= said
            for row in (int(row) for row in members if facts.side[row] == EVALUATION):
                if not known & {int(facts.content[row]), int(facts.prompt[row])}:
                    yield [row], LEAKED_NEARLY.found(f"is nearly the training row {facts.where(train[0])}")
    share = len(near) / max(1, int(np.count_nonzero(facts.side == TRAINING)))
    rule = MANY_NEAR_DUPLICATES if share >= _MANY else NEAR_DUPLICATE
    for row, first in sorted(near):
        yield [row], rule.found(f"as {facts.where(first)}")


CHECK = FileCheck((NEAR_DUPLICATE, MANY_NEAR_DUPLICATES, LEAKED_NEARLY), _run)
