"""What a judge's verdicts in both orders say: who wins, how sure that is, and how far the judge can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from veneer.evaluation.judge.questions import AnswerPair, Choice
from veneer.evaluation.statistics.compare import describe
from veneer.evaluation.statistics.measures import mean_of
from veneer.evaluation.statistics.shares import wilson


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A pair of answers with the judge's verdicts."""

    pair: AnswerPair
    straight: Choice | None
    """What the judge said of the pair in its order; None where it gave no verdict."""
    swapped: Choice | None
    """What the judge said with the other answer first; None where it gave no verdict."""

    @property
    def score(self) -> float | None:
        """How far the other answer is preferred: 1, 0, or between where it is a tie or depends on the order."""
        if self.straight is None or self.swapped is None:
            return None
        return (_PREFERRED[self.straight] + 1 - _PREFERRED[self.swapped]) / 2

    @property
    def outcome(self) -> Choice | None:
        """The better answer of the pair: one of them (1 or 2) only where both orders say so, else a tie."""
        if self.score is None:
            return None
        return {0.0: Choice.FIRST, 1.0: Choice.SECOND}.get(self.score, Choice.TIE)


_PREFERRED = {Choice.FIRST: 0.0, Choice.TIE: 0.5, Choice.SECOND: 1.0}


@dataclass(frozen=True, slots=True)
class JudgedShare:
    """A share with its 95 % interval and the number of what it is a share of."""

    value: float
    low: float
    high: float
    count: int
    interval: str = "Wilson"


@dataclass(frozen=True, slots=True)
class JudgeResult:
    """What a judge found."""

    judge: str
    """The judging model, and where it answered."""
    win_rate: JudgedShare
    """How often the adapter's answer is preferred; a tie, and each order that says otherwise than the other, counts
    half."""
    wins: int
    """Rows where the adapter's answer is preferred in both orders."""
    ties: int
    """Rows where neither is: equal answers, ties, and verdicts that depend on the order."""
    losses: int
    consistent: JudgedShare | None
    """How often both orders have the same verdict, of the rows that were asked; None where none were."""
    first_chosen: JudgedShare | None
    """How often the answer that came first was chosen, of all verdicts for one of the two: 50 % without a position
    bias. None where there were none."""
    longer_chosen: JudgedShare | None
    """How often the longer answer was chosen, of the rows with a winner: judges tend to like length."""
    agreement: JudgedShare | None = None
    """How often the judge says of pairs that people have judged what they said; None without such rows."""
    kappa: float | None = None
    """Cohen's kappa of that: the agreement beyond chance, 1 at most."""
    unclear: list[str] = field(default_factory=list)
    """Rows where an answer of the judge held no verdict; they count nowhere."""
    equal: int = 0
    """Rows whose two answers are equal: ties that were not asked."""
    verdicts: list[tuple[str, str, str]] = field(default_factory=list, repr=False)
    """The place of each row, and the verdicts with the base's answer first and with the adapter's first (1 is the
    answer that came first)."""


def judged(
    judge: str,
    pairs: Sequence[JudgedPair],
    human: Sequence[tuple[JudgedPair, Choice]] = (),
    clusters: NDArray[np.int64] | None = None,
) -> JudgeResult | None:
    """Put verdicts together.

    Args:
        judge: who judged.
        pairs: base and adapter (`other`) on each row.
        human: pairs that people have judged, and what they said.
        clusters: the number of each row's cluster, [rows], from 0; None takes each row as one.

    Returns:
        None where the judge gave no usable verdict.
    """
    measure = mean_of("win_rate", [one.score for one in pairs])
    if measure is None:
        return None
    (metric,) = describe([measure], clusters)
    clear = [one for one in pairs if one.score is not None]
    asked = [one for one in clear if one.pair.one != one.pair.other]
    outcomes = [one.outcome for one in clear]
    chosen = [c is Choice.FIRST for one in asked for c in (one.straight, one.swapped) if c is not Choice.TIE]
    won = [one for one in asked if one.outcome is not Choice.TIE and len(one.pair.one) != len(one.pair.other)]
    longer = [(len(one.pair.other) > len(one.pair.one)) == (one.outcome is Choice.SECOND) for one in won]
    found = [(one.outcome, said) for one, said in human if one.outcome is not None]
    unclear = [one.pair.where for one in [*pairs, *(one for one, _ in human)] if one.score is None]
    return JudgeResult(
        judge=judge,
        win_rate=JudgedShare(metric.value, metric.low, metric.high, len(clear), metric.interval),
        wins=outcomes.count(Choice.SECOND),
        ties=outcomes.count(Choice.TIE),
        losses=outcomes.count(Choice.FIRST),
        consistent=_share([one.score in (0.0, 1.0) or one.straight is one.swapped is Choice.TIE for one in asked]),
        first_chosen=_share(chosen),
        longer_chosen=_share(longer),
        agreement=_share([ours is said for ours, said in found]),
        kappa=_kappa(found) if found else None,
        unclear=unclear,
        equal=len(clear) - len(asked),
        verdicts=[(one.pair.where, str(one.straight or "none"), str(one.swapped or "none")) for one in pairs],
    )


def _share(values: Sequence[bool]) -> JudgedShare | None:
    if not values:
        return None
    low, high = wilson(sum(values), len(values))
    return JudgedShare(sum(values) / len(values), float(low), float(high), len(values))


def _kappa(pairs: Sequence[tuple[Choice, Choice]]) -> float | None:
    """Cohen's kappa (Educational and Psychological Measurement 20, 1960); None where only one thing was ever said."""
    count = len(pairs)
    agreed = sum(ours is said for ours, said in pairs) / count
    chance = sum(
        sum(ours is choice for ours, _ in pairs) * sum(said is choice for _, said in pairs) / count**2
        for choice in Choice
    )
    return None if chance == 1.0 else (agreed - chance) / (1 - chance)
