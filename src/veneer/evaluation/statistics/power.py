"""The number of rows that a margin needs, known before anything is computed."""

from __future__ import annotations

import math

from veneer.evaluation.statistics.student import NORMAL, Z95
from veneer.text.counting import count_of

DISCORDANT = 0.1
"""The assumed share of rows on which base and adapter differ, before it is known."""
LEAST_MARGIN = 1e-6
"""The smallest margin of a gate: with a tenth of rows that differ it needs 785 billion rows."""
FEW_ROWS = 30
"""Below this number of rows there is a warning about intervals."""


def said_of_few(count: int, unit: str) -> list[str]:
    """A warning if there are few rows, or few of what counts as one (`unit`)."""
    if count >= FEW_ROWS:
        return []
    said = f"{count_of(count, unit)} {'says' if count == 1 else 'say'} little"
    return [f"{said}: below {FEW_ROWS} an interval may be too narrow, and hardly any difference shows"]


def rows_needed(margin: float, discordant: float = DISCORDANT, power: float = 0.8) -> int:
    """The number of rows that are needed to show that two equally good models differ by less than a margin.

    The difference of two shares on the same rows has a variance of about `discordant` / rows, so that
    (z₀.₉₇₅ + z_power)² · discordant / margin² rows are needed, at one-sided 2.5 %.

    Args:
        margin: the largest allowed loss, as a share (0.02: two points); at least `LEAST_MARGIN`.
        discordant: the share of rows on which the models differ.
        power: the probability that the rows show it.
    """
    # Divided twice, since the square of a large margin would overflow.
    return max(1, math.ceil((Z95 + NORMAL.inv_cdf(power)) ** 2 * discordant / margin / margin))
