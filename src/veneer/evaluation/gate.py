"""The gate: whether an adapter may be taken, as a file of margins says; it also answers that the rows do not tell.

The primary measure must be better by at least a margin, and no suite may lose more than one (non-inferiority, ICH E10):
each is *held* where the whole 95 % interval is on the right side of its margin, *regressed* where it is on the wrong
side, and *undecided* where the margin lies inside. All must hold, so that their number needs no correction. A wrong
"held" comes in 2.5 % of cases at most.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from veneer.config.values import read_yaml
from veneer.errors import ConfigError, listing, nearest
from veneer.evaluation.statistics.compare import Comparison
from veneer.evaluation.statistics.measures import SHARES
from veneer.evaluation.statistics.power import DISCORDANT, LEAST_MARGIN, rows_needed
from veneer.evaluation.suites.base import MOST_ITEMS
from veneer.text.json_numbers import is_finite


class Verdict(StrEnum):
    """The answer of a gate, or of one of its conditions."""

    HELD = "held"
    REGRESSED = "regressed"
    UNDECIDED = "undecided"

    @property
    def exit_code(self) -> int:
        """The exit code of the command line."""
        return {Verdict.HELD: 0, Verdict.REGRESSED: 1, Verdict.UNDECIDED: 3}[self]


@dataclass(frozen=True, slots=True)
class ReleaseGate:
    """The margins that an adapter must keep."""

    metric: str | None = None
    """The metric whose measure is the primary one, as `--metric` names it; None takes what the rows call for."""
    better_by: float | None = None
    """How much better the primary measure must be at least, in its own unit (0.02 of a share: two points)."""
    suites: Mapping[str, float] = field(default_factory=dict)
    """The largest loss that is allowed on each suite, by the name that `--suite` takes."""
    items: int | None = None
    """Items of each generated suite; None takes as many as its margin needs."""
    discordant: float = DISCORDANT
    """The share of rows on which base and adapter are supposed to differ: so many rows does a margin need."""

    def items_of(self, suite: str) -> int:
        """The number of items that a generated suite is to have."""
        return self.items or rows_needed(self.suites[suite], self.discordant)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a gate, and whether it holds."""

    name: str
    """The measure or suite."""
    rule: str
    """What must hold, in words."""
    gain: float
    """How much better the adapter is: below 0 is a loss."""
    low: float
    high: float
    """Ends of the 95 % interval of the gain."""
    interval: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class GateResult:
    """The answer of a gate."""

    verdict: Verdict
    conditions: list[Condition]


KEYS = ("metric", "better_by", "suites", "items", "discordant")


def read_gate(path: Path) -> ReleaseGate:
    """The gate of a YAML file.

    Raises:
        ConfigError: the file cannot be read, or keys or values are not allowed; all are named.
    """
    return gate_of(read_yaml(path), str(path))


def gate_of(values: Mapping[str, Any], name: str) -> ReleaseGate:
    """The gate of plain values.

    Args:
        values: by their keys.
        name: what errors call them.

    Raises:
        ConfigError: keys or values are not allowed; all are named.
    """
    problems = [f"{key}: unknown key{nearest(str(key), KEYS)}" for key in values if key not in KEYS]
    metric, suites = values.get("metric"), values.get("suites", {})
    if metric is not None and not isinstance(metric, str):
        problems.append(f"metric: {metric!r} is no name")
    if not isinstance(suites, Mapping):
        problems.append(f"suites: {suites!r} is no mapping of suites to margins")
        suites = {}
    problems += [
        f"suites.{name}: {margin!r} is no number above 0" for name, margin in suites.items() if not _number(margin, 0.0)
    ]
    better_by, items = values.get("better_by"), values.get("items")
    if better_by is not None and not _number(better_by, -math.inf):
        problems.append(f"better_by: {better_by!r} is no number")
    problems += _too_small({f"suites.{name}": margin for name, margin in suites.items()} | {"better_by": better_by})
    if items is not None and not (_number(items, 0.0) and isinstance(items, int)):
        problems.append(f"items: {items!r} is no whole number above 0")
    elif (items or 0) > MOST_ITEMS:
        problems.append(f"items: {items:,}, and a generated suite has {MOST_ITEMS:,}; ask for fewer")
    discordant = values.get("discordant", DISCORDANT)
    if not _number(discordant, 0.0) or discordant > 1:
        problems.append(f"discordant: {discordant!r} is no share above 0")
    if better_by is None and not suites and not problems:
        problems.append("neither better_by nor suites: such a gate refuses nothing")
    if problems:
        raise ConfigError(f"{name} is no gate:\n{listing(problems)}")
    margins = {str(name): float(margin) for name, margin in suites.items()}
    return ReleaseGate(metric, None if better_by is None else float(better_by), margins, items, float(discordant))


def _too_small(margins: Mapping[str, Any]) -> list[str]:
    """What is wrong with margins that no number of rows could show; 0 is for others to judge."""
    return [
        f"{key}: {margin!r}, and a margin is at least {LEAST_MARGIN:f}, since no rows tell less from nothing; give the "
        f"difference that matters to you (0.02: two points){', or 0' if key == 'better_by' else ''}"
        for key, margin in margins.items()
        if _number(margin, -LEAST_MARGIN) and 0 < abs(margin) < LEAST_MARGIN and (margin > 0 or key == "better_by")
    ]


def _number(value: Any, above: float) -> bool:
    return is_finite(value) and value > above


def decide(gate: ReleaseGate, primary: Comparison | None, suites: Mapping[str, Comparison]) -> GateResult:
    """Put a gate's question to what was measured.

    Args:
        gate: the margins.
        primary: the primary measure; not asked where the gate has no `better_by`.
        suites: the measure of every suite that the gate names.

    Raises:
        ConfigError: there is no primary measure where the gate asks for one.
    """
    conditions = []
    if gate.better_by is not None:
        if primary is None:
            raise ConfigError("the gate asks for a better measure, and the rows have none that base and adapter share")
        rule = f"better by {gate.better_by:g} or more"
        conditions.append(_condition(primary.name, rule, primary, gate.better_by))
    for name, margin in gate.suites.items():
        conditions.append(_condition(name, f"loses no more than {margin:g}", suites[name], -margin))
    found = [one.verdict for one in conditions]
    worst = next((v for v in (Verdict.REGRESSED, Verdict.UNDECIDED) if v in found), Verdict.HELD)
    return GateResult(worst, conditions)


def _condition(name: str, rule: str, found: Comparison, least: float) -> Condition:
    gain, low, high = found.gain
    return Condition(name, rule, gain, low, high, found.interval, verdict(low, high, least))


def verdict(low: float, high: float, least: float) -> Verdict:
    """Whether a gain is at least `least`, from the ends of its interval. Raises nothing: no number is undecided."""
    if low >= least:
        return Verdict.HELD
    return Verdict.REGRESSED if high < least else Verdict.UNDECIDED


def announced(gate: ReleaseGate, rows: Mapping[str, int], primary: tuple[str, int] | None) -> Sequence[str]:
    """What is to be said before anything is computed: margins that need more rows than there are.

    Args:
        gate: the margins.
        rows: the number of rows of each suite that is measured by a share of rows.
        primary: the primary measure and the number of its rows, where it is a share of them.
    """
    lines = [] if primary is None else _too_few_for(gate, *primary)
    for name, count in rows.items():
        needed = rows_needed(gate.suites[name], gate.discordant)
        if needed > count:
            lines.append(
                f"{name}: a margin of {gate.suites[name]:g} needs {needed:,} rows if the models differ on "
                f"{gate.discordant:.0%} of them, and there are {count:,}; the answer is likely to be undecided"
            )
    return lines


def _too_few_for(gate: ReleaseGate, name: str, count: int) -> list[str]:
    """A warning where the primary measure has fewer rows than show an adapter that is better by twice the margin."""
    margin, found = gate.better_by or 0.0, []
    gain = max(2 * margin, 0.0)
    if margin and gain <= 1:
        # Models of which one is better by so much differ on as many rows at least.
        differing = max(gate.discordant, gain)
        needed = rows_needed(abs(margin), differing)
        if needed > count:
            found = [
                f"{name}: to hold 'better by {margin:g}' takes {needed:,} rows if the adapter is better by {gain:g} "
                f"and the models differ on {differing:.0%} of them, and there are {count:,}; unless it is better by "
                "far more, the answer is likely to be undecided"
            ]
    return found


def refuse_beyond_shares(gate: ReleaseGate, suites: Collection[str], primary: str | None) -> None:
    """Refuse margins that no share can exceed: they would hold any adapter, or none.

    Args:
        gate: the margins.
        suites: those that are measured by a share.
        primary: the primary measure; None where it is not known.

    Raises:
        ConfigError: there are such margins; all are named.
    """
    margins = {f"suites.{name}": margin for name, margin in gate.suites.items() if name in suites}
    if gate.better_by is not None and primary in SHARES:
        margins["better_by"] = gate.better_by
    problems = [
        f"{key}: {margin:g}, and a share cannot change by more than 1: "
        f"{'no' if key == 'better_by' and margin > 0 else 'any'} adapter would be held"
        for key, margin in margins.items()
        if abs(margin) >= 1
    ]
    if problems:
        raise ConfigError(
            f"the gate has margins beyond what a share can have:\n{listing(problems)}\n"
            "Give them as shares: 0.03 is three points."
        )
