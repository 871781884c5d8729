"""Rows that repeat an earlier row, and equal questions with different answers. Training rows and evaluation rows are
each checked by themselves; what is in both is leaked (`veneer.data.lint.checks.leakage`).

A row that has the same text but the other label of KTO is not a repetition, and an answer that is labelled as
undesirable contradicts no other answer (`veneer.data.lint.checks.preferences` checks such labels).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veneer.data.lint.facts import EVALUATION, TRAINING, UNDESIRABLE, FileFacts
from veneer.data.lint.rules import Cost, FileCheck, Finding, LintRule, Severity

DUPLICATE = LintRule(
    "duplicate",
    Severity.WARNING,
    Cost.FILE,
    "repeat an earlier row (ignoring case and white space)",
    "remove them (`--fix` removes the exact ones), unless they are meant to count more than once",
)
CONFLICTING_LABELS = LintRule(
    "conflicting-labels",
    Severity.ERROR,
    Cost.FILE,
    "ask the same as another row but have another label: at least one of the labels is wrong",
    "decide which label is right, and remove the others",
)
CONFLICTING_ANSWERS = LintRule(
    "several-answers",
    Severity.INFO,
    Cost.FILE,
    "ask the same as another row but answer differently",
    "keep them if several answers are right; otherwise keep the right one",
)
Places = NDArray[np.int64]
_LABEL_CHARS = 80
"""The most characters of an answer that may be a label."""
_SHORT_LABEL_CHARS, _QUESTIONS_ELSEWHERE = 40, 2
"""Answers of other files are labels too if they have at most so many characters and each answers so many questions."""
_ROWS_PER_LABEL = 4
"""Labels are few: each must be the answer of at least this many rows on average."""


def _run(facts: FileFacts) -> Iterator[tuple[Sequence[int], Finding]]:
    for side in (TRAINING, EVALUATION):
        rows = np.flatnonzero(facts.usable & (facts.side == side))
        yield from _repeats(facts, rows)
        yield from _conflicts(facts, rows)


def _repeats(facts: FileFacts, rows: Places) -> Iterator[tuple[Sequence[int], Finding]]:
    for same in groups(facts.content[rows]):
        members = rows[same]
        for label in np.unique(facts.label[members]):
            first, *others = members[facts.label[members] == label].tolist()
            if others:
                yield others, DUPLICATE.found(f"as {facts.where(first)}")


def _conflicts(facts: FileFacts, rows: Places) -> Iterator[tuple[Sequence[int], Finding]]:
    asked = _meant(facts, rows[facts.prompt[rows] != 0])
    labels = has_labels(facts, asked)
    values, counts = np.unique(facts.answer[asked], return_counts=True)
    for same in groups(facts.prompt[asked]):
        members = asked[same]
        answers, first, here = np.unique(facts.answer[members], return_index=True, return_counts=True)
        if len(answers) > 1:
            elsewhere = counts[np.searchsorted(values, answers)] - here
            short = int(facts.answer_length[members].max()) <= _SHORT_LABEL_CHARS
            certain = labels or (short and int(elsewhere.min()) >= _QUESTIONS_ELSEWHERE)
            rule = CONFLICTING_LABELS if certain else CONFLICTING_ANSWERS
            others = ", ".join(facts.where(row) for row in members[np.sort(first)][:5].tolist())
            yield members.tolist(), rule.found(f"{len(answers)} different answers: {others}")


def _meant(facts: FileFacts, asked: Places) -> Places:
    """The rows whose answers are meant to be given. Answers that are labelled as undesirable are left out, unless the
    label only repeats which of a few answers it is, like a column of numbers next to their names."""
    answers, labels = facts.answer[asked], facts.label[asked]
    rejected = labels == UNDESIRABLE
    if has_labels(facts, asked) and not np.isin(answers[rejected], answers[~rejected]).any():
        return asked
    kept: Places = asked[~rejected]
    return kept


def has_labels(facts: FileFacts, rows: Places) -> bool:
    """Whether the answers of these rows are labels: short, and few different ones compared with the number of rows."""
    if len(rows) < 2 or int(np.quantile(facts.answer_length[rows], 0.99)) > _LABEL_CHARS:
        return False
    return len(np.unique(facts.answer[rows])) * _ROWS_PER_LABEL <= len(rows)


def groups(values: NDArray[Any]) -> Iterator[Places]:
    """The ascending places of equal values, for every value that occurs more than once."""
    order = np.argsort(values, kind="stable")
    borders = np.flatnonzero(np.diff(values[order])) + 1
    starts = np.concatenate(([0], borders))
    ends = np.concatenate((borders, [len(order)]))
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        yield order[start:end]


CHECK = FileCheck((DUPLICATE, CONFLICTING_LABELS, CONFLICTING_ANSWERS), _run)
