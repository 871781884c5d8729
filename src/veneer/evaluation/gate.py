"""The gate: whether an adapter keeps the margins in a file; its answer may also be that the rows do not tell.

The primary measure must be better by at least a margin, and no suite may lose more than one (non-inferiority, ICH E10).
Each condition is *held* if the whole 95 % interval is on the right side of its margin, *regressed* if it is on the
wrong side, and *undecided* if the margin lies inside. All must hold, so their number needs no correction. A wrong
"held" comes in at most 2.5 % of cases.
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
    """The metric with the primary measure, as `--metric` names it; None takes the metric that fits the rows."""
    better_by: float | None = None
    """How much better the primary measure must be at least, in its own unit (0.02 of a share: two points)."""
    suites: Mapping[str, float] = field(default_factory=dict)
    """The largest allowed loss on each suite, by the name as in `--suite`."""
    items: int | None = None
    """The number of items of each generated suite; None takes as many as its margin needs."""
    discordant: float = DISCORDANT
    """The assumed share of rows on which base and adapter differ; the rows that a margin needs follow from it."""

    def items_of(self, suite: str) -> int:
        """The number of items of a generated suite."""
        return self.items or rows_needed(self.suites[suite], self.discordant)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a gate, and whether it holds."""

    name: str
    """The measure or suite."""
    rule: str
    """What must hold, in words."""
    gain: float
    """How much better the adapter is; a value below 0 is a loss."""
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
    """The gate in a YAML file.

    Raises:
        ConfigError: the file cannot be read, or keys or values are not allowed; all are named.
    """
    return gate_of(read_yaml(path), str(path))


def gate_of(values: Mapping[str, Any], name: str) -> ReleaseGate:
    """The gate from plain values.

    Args:
        values: the values by their keys.
        name: the name of the values in errors.

    Raises:
        ConfigError: keys or values are not allowed; all are named.
    """
    problems = [f"{key}: unknown key{nearest(str(key), KEYS)}" for key in values if key not in KEYS]
    metric, suites = values.get("metric"), values.get("suites", {})
    if metric is not None and not isinstance(metric, str):
        problems.append(f"metric: {metric!r} is not a name")
    if not isinstance(suites, Mapping):
        problems.append(f"suites: {suites!r} is not a mapping of suites to margins")
        suites = {}
    problems += [
        f"suites.{name}: {margin!r} is not a number above 0"
        for name, margin in suites.items()
        if not _number(margin, 0.0)
    ]
    better_by, items = values.get("better_by"), values.get("items")
    if better_by is not None and not _number(better_by, -math.inf):
        problems.append(f"better_by: {better_by!r} is not a number")
    problems += _too_small({f"suites.{name}": margin for name, margin in suites.items()} | {"better_by": better_by})
    if items is not None and not (_number(items, 0.0) and isinstance(items, int)):
        problems.append(f"items: {items!r} is not a whole number above 0")
    elif (items or 0) > MOST_ITEMS:
        problems.append(f"items: {items:,} is more than the {MOST_ITEMS:,} items of a generated suite; give fewer")
    discordant = values.get("discordant", DISCORDANT)
    if not _number(discordant, 0.0) or discordant > 1:
        problems.append(f"discordant: {discordant!r} is not a share above 0")
    if better_by is None and not suites and not problems:
        problems.append("neither better_by nor suites is given: such a gate refuses nothing; give one of them")
    if problems:
        raise ConfigError(f"{name} is not a valid gate:\n{listing(problems)}")
    margins = {str(name): float(margin) for name, margin in suites.items()}
    return ReleaseGate(metric, None if better_by is None else float(better_by), margins, items, float(discordant))


def _too_small(margins: Mapping[str, Any]) -> list[str]:
    """Errors about margins that no number of rows could show; 0 is checked elsewhere."""
    return [
        f"{key}: {margin!r} is below {LEAST_MARGIN:f}, and no number of rows shows a difference that small; give the "
        f"difference that matters to you (0.02: two points){', or 0' if key == 'better_by' else ''}"
        for key, margin in margins.items()
        if _number(margin, -LEAST_MARGIN) and 0 < abs(margin) < LEAST_MARGIN and (margin > 0 or key == "better_by")
    ]


def _number(value: Any, above: float) -> bool:
    return is_finite(value) and value > above


def decide(gate: ReleaseGate, primary: Comparison | None, suites: Mapping[str, Comparison]) -> GateResult:
    """The gate's answer for the measured values.

    Args:
        gate: the margins.
        primary: the primary measure; not used if the gate has no `better_by`.
        suites: the measure of every suite that the gate names.

    Raises:
        ConfigError: there is no primary measure although the gate needs one.
    """
    conditions = []
    if gate.better_by is not None:
        if primary is None:
            raise ConfigError("better_by needs a primary measure, and the rows have none that base and adapter share")
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
    """Whether a gain is at least `least`, from the ends of its interval; undecided if an end is not a number."""
    if low >= least:
        return Verdict.HELD
    return Verdict.REGRESSED if high < least else Verdict.UNDECIDED


def announced(gate: ReleaseGate, rows: Mapping[str, int], primary: tuple[str, int] | None) -> Sequence[str]:
    """Warnings before anything is computed: margins that need more rows than there are.

    Args:
        gate: the margins.
        rows: the number of rows of each suite whose measure is a share of rows.
        primary: the primary measure and the number of its rows, if it is a share of them.
    """
    lines = [] if primary is None else _too_few_for(gate, *primary)
    for name, count in rows.items():
        needed = rows_needed(gate.suites[name], gate.discordant)
        if needed > count:
            lines.append(
                f"{name}: a margin of {gate.suites[name]:g} needs {needed:,} rows if the models differ on "
                f"{gate.discordant:.0%} of them, but there are {count:,}; the answer is likely to be undecided"
            )
    return lines


def _too_few_for(gate: ReleaseGate, name: str, count: int) -> list[str]:
    """A warning if the primary measure has too few rows to show an adapter that is better by twice the margin."""
    margin, found = gate.better_by or 0.0, []
    gain = max(2 * margin, 0.0)
    if margin and gain <= 1:
        # If one model is better by this share, the models differ on at least this share of the rows.
        differing = max(gate.discordant, gain)
        needed = rows_needed(abs(margin), differing)
        if needed > count:
            found = [
                f"{name}: to hold 'better by {margin:g}' needs {needed:,} rows if the adapter is better by {gain:g} "
                f"and the models differ on {differing:.0%} of them, but there are {count:,}; unless it is better by "
                "far more, the answer is likely to be undecided"
            ]
    return found


def refuse_beyond_shares(gate: ReleaseGate, suites: Collection[str], primary: str | None) -> None:
    """Refuse margins that no share can exceed: every adapter would keep them, or none.

    Args:
        gate: the margins.
        suites: the suites whose measure is a share.
        primary: the primary measure; None if it is not known.

    Raises:
        ConfigError: there are such margins; all are named.
    """
    margins = {f"suites.{name}": margin for name, margin in gate.suites.items() if name in suites}
    if gate.better_by is not None and primary in SHARES:
        margins["better_by"] = gate.better_by
    problems = [
        f"{key}: {margin:g}, but a share cannot change by more than 1: "
        f"{'no' if key == 'better_by' and margin > 0 else 'any'} adapter would be held"
        for key, margin in margins.items()
        if abs(margin) >= 1
    ]
    if problems:
        raise ConfigError(
            f"the gate has margins that are impossible for a share:\n{listing(problems)}\n"
            "Give them as shares: 0.03 is three points."
        )
