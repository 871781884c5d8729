"""Rows that are nearly equal to another row, and evaluation rows that are nearly training rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from veneer.data.lint.checks.duplicates import groups
from veneer.data.lint.clusters import clusters
from veneer.data.lint.facts import EVALUATION, TRAINING, FileFacts
from veneer.data.lint.rules import Cost, FileCheck, Finding, LintRule, Severity
from veneer.data.lint.shingles import LEAST_SIMILARITY, similarity

NEAR_DUPLICATE = LintRule(
    "near-duplicate",
    Severity.INFO,
    Cost.FILE,
    "are nearly the same as an earlier row",
    "keep one of each, unless such small differences are to be learned",
)
MANY_NEAR_DUPLICATES = LintRule(
    "many-near-duplicates",
    Severity.WARNING,
    Cost.FILE,
    "are nearly the same as an earlier row, and they are 5 % of the file or more",
    "keep one of each, unless such small differences are to be learned",
)
LEAKED_NEARLY = LintRule(
    "leaked-nearly",
    Severity.WARNING,
    Cost.FILE,
    "are in the evaluation file and are nearly the same as a training row",
    "remove one of the two, or split with near-duplicates on one side: data.split {by: near-duplicates}",
)
_MANY_SHARE = 0.05
_COMPARED_ROWS = 200
"""The number of rows of a cluster with which a row is compared, so that the time does not grow with their square."""


def _run(facts: FileFacts) -> Iterator[tuple[Sequence[int], Finding]]:
    roots = clusters(facts.bands, facts.shingles.read, LEAST_SIMILARITY)
    near: list[tuple[int, str]] = []
    for members in groups(roots):
        train = [int(row) for row in members if facts.side[row] == TRAINING]
        if train:
            # Rows of equal content, or with an equal question, are found by other rules.
            known: set[int] = set()
            for place, row in enumerate(train):
                said = {int(facts.content[row]), int(facts.prompt[row])} - {0}
                earlier = train[max(0, place - _COMPARED_ROWS) : place]
                if known and not known & said and (like := _like(facts, row, earlier, train[0])):
                    near.append((row, like))
                known |= said
            for row in (int(row) for row in members if facts.side[row] == EVALUATION):
                seen = known & {int(facts.content[row]), int(facts.prompt[row])}
                if not seen and (like := _like(facts, row, train[-_COMPARED_ROWS:], train[0])):
                    yield [row], LEAKED_NEARLY.found(f"is nearly the training row {like}")
    share = len(near) / max(1, int(np.count_nonzero(facts.side == TRAINING)))
    rule = MANY_NEAR_DUPLICATES if share >= _MANY_SHARE else NEAR_DUPLICATE
    for row, like in sorted(near):
        yield [row], rule.found(f"as {like}")


def _like(facts: FileFacts, row: int, others: Sequence[int], first: int) -> str | None:
    """Where the row is that a row nearly equals; None if it only belongs to its cluster through rows between them.

    Args:
        facts: the facts about the files.
        row: the row.
        others: the last rows of its cluster that it may equal, at most `_COMPARED_ROWS`.
        first: the first of all such rows.
    """
    own = facts.shingles.read(row)
    for other in (first, *reversed(others)):
        if similarity(facts.shingles.read(other), own) >= LEAST_SIMILARITY:
            return facts.where(other)
    # If there are more rows than were compared, it may be like one of those.
    return f"{facts.where(first)}, or one that is nearly that" if len(others) == _COMPARED_ROWS else None


CHECK = FileCheck((NEAR_DUPLICATE, MANY_NEAR_DUPLICATES, LEAKED_NEARLY), _run)
