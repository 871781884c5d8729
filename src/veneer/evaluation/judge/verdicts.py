"""The meaning of a judge's verdicts in both orders: who wins, how certain that is, and how reliable the judge is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from veneer.evaluation.judge.questions import AnswerPair, Choice
from veneer.evaluation.statistics.compare import describe
from veneer.evaluation.statistics.measures import SHARE, Measure, mean_of, ratio
from veneer.evaluation.statistics.shares import wilson


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A pair of answers with the judge's verdicts."""

    pair: AnswerPair
    straight: Choice | None
    """The judge's verdict on the pair in its own order; None if it gave none."""
    swapped: Choice | None
    """The judge's verdict with the other answer first; None if it gave none."""

    @property
    def outcome(self) -> Choice | None:
        """The better answer of the pair: 1 or 2 only if both orders say so, otherwise a tie."""
        if self.straight is None or self.swapped is None:
            return None
        return self.straight if self.consistent else Choice.TIE

    @property
    def score(self) -> float | None:
        """How far the other answer is preferred: 1, 0, or a half if it is a tie or depends on the order."""
        return None if self.outcome is None else _PREFERRED[self.outcome]

    @property
    def consistent(self) -> bool:
        """Whether both orders have the same verdict."""
        return (self.straight, self.swapped) in _ALIKE

    @property
    def asked(self) -> bool:
        """Whether the judge was asked and gave a verdict in both orders. Equal answers are ties without asking."""
        return self.outcome is not None and self.pair.one != self.pair.other

    @property
    def longer_won(self) -> bool | None:
        """Whether the longer answer is the better one; None if neither is better, or neither is longer."""
        one, other = len(self.pair.one), len(self.pair.other)
        if not self.asked or self.outcome is Choice.TIE or one == other:
            return None
        return (other > one) == (self.outcome is Choice.SECOND)

    def count(self, *choices: Choice) -> int:
        """How many of the verdicts on a judged row are one of these."""
        return sum(said in choices for said in (self.straight, self.swapped)) if self.asked else 0


_PREFERRED = {Choice.FIRST: 0.0, Choice.TIE: 0.5, Choice.SECOND: 1.0}
_ALIKE = ((Choice.FIRST, Choice.SECOND), (Choice.SECOND, Choice.FIRST), (Choice.TIE, Choice.TIE))
"""Pairs of verdicts, with either answer first, that agree."""


@dataclass(frozen=True, slots=True)
class JudgedShare:
    """A share with its 95 % interval, and the number of cases."""

    value: float
    low: float
    high: float
    count: int
    interval: str = "Wilson"


@dataclass(frozen=True, slots=True)
class JudgeResult:
    """The result of a judge."""

    judge: str
    """The judging model, and where it ran."""
    win_rate: JudgedShare
    """How often the adapter's answer is preferred. A tie counts half, and so does a verdict that changes with the
    order."""
    wins: int
    """The number of rows in which the adapter's answer is preferred in both orders."""
    ties: int
    """The number of rows in which neither is: equal answers, ties, and verdicts that depend on the order."""
    losses: int
    consistent: JudgedShare | None
    """The share of the judged rows with the same verdict in both orders; None if no row was judged."""
    first_chosen: JudgedShare | None
    """How often the answer that came first was chosen, of all verdicts for one of the two: 50 % without a position
    bias. None if there were no such verdicts."""
    longer_chosen: JudgedShare | None
    """How often the longer answer was chosen, of the rows with a winner: judges tend to like length."""
    agreement: JudgedShare | None = None
    """How often the judge agrees with people, on pairs that both have judged; None without such pairs."""
    kappa: float | None = None
    """Cohen's kappa of that agreement: the agreement beyond chance, at most 1."""
    unclear: list[str] = field(default_factory=list)
    """The places of the rows on which an answer of the judge has no verdict; they are not counted anywhere."""
    equal: int = 0
    """The number of rows whose two answers are equal; they are ties, and the judge is not asked."""
    verdicts: list[tuple[str, str, str]] = field(default_factory=list, repr=False)
    """The place of each row, and its verdicts with the base's answer first and with the adapter's first (1 is the
    answer that came first)."""


def judged(
    judge: str,
    pairs: Sequence[JudgedPair],
    human: Sequence[tuple[JudgedPair, Choice]] = (),
    clusters: NDArray[np.int64] | None = None,
) -> JudgeResult | None:
    """The result of the verdicts.

    Args:
        judge: the name of the judge.
        pairs: the answers of base and adapter (`other`) on each row, with their verdicts.
        human: pairs that people have judged, with the people's verdict.
        clusters: the cluster index of each row, [rows], from 0; None makes each row its own cluster.

    Returns:
        None if the judge gave no usable verdict.
    """
    measure = mean_of("win_rate", [one.score for one in pairs])
    if measure is None:
        return None
    outcomes = [one.outcome for one in pairs if one.outcome is not None]
    # Both verdicts of a row belong to it: they are equal if a judge looks only at the position.
    decided = [float(one.count(Choice.FIRST, Choice.SECOND)) for one in pairs]
    first = ratio("first_chosen", [float(one.count(Choice.FIRST)) for one in pairs], decided, scale=SHARE)
    agreed = mean_of("consistent", [float(one.consistent) if one.asked else None for one in pairs])
    longer = mean_of("longer_chosen", [None if one.longer_won is None else float(one.longer_won) for one in pairs])
    found = [(one.outcome, said) for one, said in human if one.outcome is not None and one.asked]
    unclear = [one.pair.where for one in [*pairs, *(one for one, _ in human)] if one.score is None]
    return JudgeResult(
        judge=judge,
        win_rate=_measured(measure, clusters),
        wins=outcomes.count(Choice.SECOND),
        ties=outcomes.count(Choice.TIE),
        losses=outcomes.count(Choice.FIRST),
        consistent=None if agreed is None else _measured(agreed, clusters),
        first_chosen=_measured(first, clusters) if any(decided) else None,
        longer_chosen=None if longer is None else _measured(longer, clusters),
        agreement=_share([ours is said for ours, said in found]),
        kappa=_kappa(found) if found else None,
        unclear=unclear,
        equal=sum(one.outcome is not None and not one.asked for one in pairs),
        verdicts=[(one.pair.where, str(one.straight or "none"), str(one.swapped or "none")) for one in pairs],
    )


def _measured(measure: Measure, clusters: NDArray[np.int64] | None) -> JudgedShare:
    """A share of rows, or of the verdicts on them, and the number of these."""
    (found,) = describe([measure], clusters)
    return JudgedShare(found.value, found.low, found.high, int(measure.counts[:, 1].sum()), found.interval)


def _share(values: Sequence[bool]) -> JudgedShare | None:
    if not values:
        return None
    low, high = wilson(sum(values), len(values))
    return JudgedShare(sum(values) / len(values), float(low), float(high), len(values))


def _kappa(pairs: Sequence[tuple[Choice, Choice]]) -> float | None:
    """Cohen's kappa (Educational and Psychological Measurement 20, 1960); None if all verdicts are the same."""
    count = len(pairs)
    agreed = sum(ours is said for ours, said in pairs) / count
    chance = sum(
        sum(ours is choice for ours, _ in pairs) * sum(said is choice for _, said in pairs) / count**2
        for choice in Choice
    )
    return None if chance == 1.0 else (agreed - chance) / (1 - chance)
