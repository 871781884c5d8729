"""Evaluation rows that are also in training: the same row, the same question, or the same group of rows."""

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
    "are in the evaluation file and are trained as well: their score shows what was memorised",
    "remove them from the training file",
)
LEAKED_PROMPT = LintRule(
    "leaked-prompt",
    Severity.ERROR,
    Cost.FILE,
    "are in the evaluation file and ask the same as a training row, with another answer",
    "remove the training rows that ask it, or split by question (data.split)",
)
LEAKED_GROUP = LintRule(
    "leaked-group",
    Severity.ERROR,
    Cost.FILE,
    "are in the evaluation file and belong to a group with rows that are trained",
    "split by that column: data.split {by: group}",
)
LEAKED_WITHIN = LintRule(
    "leaked-within",
    Severity.WARNING,
    Cost.FILE,
    "are in the evaluation file and are almost completely contained in a longer training row",
    "remove the passage from the training row, or the row from the evaluation file",
)
_CONTAINED_SHARE = 0.8
"""The share of an evaluation row's runs of five words that one training row must contain."""
_FEWEST_WORDS = 9
"""The runs that an evaluation row must have to be searched for: 13 words."""
_COMMON_ROWS = 10
"""The number of evaluation rows from which on a run that they all have says nothing."""


def _run(facts: FileFacts) -> Iterator[tuple[Sequence[int], Finding]]:
    train = np.flatnonzero(facts.usable & (facts.side == TRAINING))
    held = np.flatnonzero(facts.usable & (facts.side == EVALUATION))
    if not len(held):
        return
    leaked = np.zeros(len(held), dtype=np.bool_)
    for values, rule, text in (
        (facts.content, LEAKED_ROW, "is the training row"),
        (facts.prompt, LEAKED_PROMPT, "asks the same as the training row"),
        (facts.group, LEAKED_GROUP, "is in the group of the training row"),
    ):
        at, found = _looked_up(values[train], values[held])
        found &= (values[held] != 0) & ~leaked
        if rule is not LEAKED_GROUP:
            leaked |= found
        for row, first in zip(held[found].tolist(), train[at[found]].tolist(), strict=True):
            yield [row], rule.found(f"{text} {facts.where(first)}")
    yield from _contained(facts, train, held[~leaked])


def _contained(
    facts: FileFacts, train: NDArray[np.int64], held: NDArray[np.int64]
) -> Iterator[tuple[Sequence[int], Finding]]:
    """Evaluation rows that are almost completely contained in one longer training row."""
    sets = [facts.shingles.read(int(row)) for row in held]
    sizes = np.array([len(one) for one in sets], dtype=np.int64)
    hashes = np.concatenate([*sets, np.zeros(0, dtype=np.uint32)])
    owners = np.repeat(np.arange(len(held)), sizes)
    order = np.argsort(hashes, kind="stable")
    hashes, owners = hashes[order], owners[order]
    known, starts, counts = np.unique(hashes, return_index=True, return_counts=True)
    if not len(known):
        return
    found: set[int] = set()
    for row in train.tolist():
        said = facts.shingles.read(row)
        at = np.minimum(np.searchsorted(known, said), len(known) - 1)
        at = at[(known[at] == said) & (counts[at] < _COMMON_ROWS)]
        if len(at) < _FEWEST_WORDS * _CONTAINED_SHARE:
            continue
        hit = np.concatenate([owners[starts[place] : starts[place] + counts[place]] for place in at.tolist()])
        places, shared = np.unique(hit, return_counts=True)
        for place, count in zip(places.tolist(), shared.tolist(), strict=True):
            size = int(sizes[place])
            # Rows of about the same length are near-duplicates, which another rule finds.
            if (
                place not in found
                and size >= _FEWEST_WORDS
                and count >= _CONTAINED_SHARE * size
                and len(said) > 1.25 * size
            ):
                found.add(place)
                text = f"{100 * count / size:.0f} % of it is in the training row {facts.where(row)}"
                yield [int(held[place])], LEAKED_WITHIN.found(text)


def _looked_up(known: Hash, wanted: Hash) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For each wanted value its first place among the known ones, and whether it exists there."""
    if not len(known):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.bool_)
    order = np.argsort(known, kind="stable")
    at = np.minimum(np.searchsorted(known[order], wanted), len(known) - 1)
    return order[at], known[order[at]] == wanted


CHECK = FileCheck((LEAKED_ROW, LEAKED_PROMPT, LEAKED_GROUP, LEAKED_WITHIN), _run)
