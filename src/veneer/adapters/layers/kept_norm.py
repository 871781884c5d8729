"""Norms that DoRA divides by, kept until the factors that they depend on change.

In training the factors change once per step, and a norm is needed in every micro-batch, and again if activations are
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
        """The norm, measured again if a factor was changed in place (by torch's version counter) or replaced."""
        state = [(factor.data_ptr(), factor._version) for factor in factors]
        kept = self._measured
        if kept is None or kept[0] != state:
            kept = self._measured = (state, measure())
        return kept[1]
