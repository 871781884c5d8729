"""Evaluation rows that training has seen: the same row, the same question, or the same group of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from veneer.data.lint.facts import EVALUATION, TRAINING, FileFacts, Hash
from veneer.data.lint.rules import Cost, FileCheck, Finding, LintRule, Severity

LEAKED_ROW = LintRule(
    "leaked-row",
    Severity.ERROR,
    Cost.FILE,
    "stand in the evaluation file and train as well: their score says what was learnt by heart",
    "remove them from the training file",
)
LEAKED_PROMPT = LintRule(
    "leaked-prompt",
    Severity.ERROR,
    Cost.FILE,
    "stand in the evaluation file and ask what a training row asks, with another answer",
    "remove the training rows that ask it, or split by question (data.split)",
)
LEAKED_GROUP = LintRule(
    "leaked-group",
    Severity.ERROR,
    Cost.FILE,
    "stand in the evaluation file and belong to a group of which other rows train",
    "split by that column: data.split {by: group}",
)


def _run(facts: FileFacts) -> Iterator[tuple[Sequence[int], Finding]]:
    train = np.flatnonzero(facts.usable & (facts.side == TRAINING))
    held = np.flatnonzero(facts.usable & (facts.side == EVALUATION))
    if not len(held):
        return
    leaked = np.zeros(len(held), dtype=np.bool_)
    for values, rule, text in (
        (facts.content, LEAKED_ROW, "is the training row"),
        (facts.prompt, LEAKED_PROMPT, "asks what is asked by the training row"),
        (facts.group, LEAKED_GROUP, "is of the group of the training row"),
    ):
        at, found = _looked_up(values[train], values[held])
        found &= (values[held] != 0) & ~leaked
        if rule is not LEAKED_GROUP:
            leaked |= found
        for row, first in zip(held[found].tolist(), train[at[found]].tolist(), strict=True):
            yield [row], rule.found(f"{text} {facts.where(first)}")


def _looked_up(known: Hash, wanted: Hash) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For each wanted value its first place among the known ones, and whether it is there."""
    if not len(known):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.bool_)
    order = np.argsort(known, kind="stable")
    at = np.minimum(np.searchsorted(known[order], wanted), len(known) - 1)
    return order[at], known[order[at]] == wanted


CHECK = FileCheck((LEAKED_ROW, LEAKED_PROMPT, LEAKED_GROUP), _run)
