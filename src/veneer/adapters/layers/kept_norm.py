"""Norms that DoRA divides by, kept for as long as the factors that they follow from stay what they are.

In training the factors change once a step, and a norm is asked for in every micro-batch, again where activations are
recomputed. In evaluation and generation they never change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor


class KeptNorm:
    """A norm, and the state of the factors that it was measured of."""

    def __init__(self) -> None:
        self._measured: tuple[list[tuple[int, int]], Tensor] | None = None

    def of(self, factors: Sequence[Tensor], measure: Callable[[], Tensor]) -> Tensor:
        """The norm, measured anew if a factor has changed in its place (by torch's count) or stands elsewhere."""
        state = [(factor.data_ptr(), factor._version) for factor in factors]
        kept = self._measured
        if kept is None or kept[0] != state:
            kept = self._measured = (state, measure())
        return kept[1]
