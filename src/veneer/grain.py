"""The number of rows in a matrix product, kept to few values.

The library behind torch's products (oneDNN) compiles and keeps a kernel for each shape that it meets, at about 3 ms and
0.6 MB each. With every number of tokens its own, that is a tenth of a training step, and hundreds of MB over a run
(docs/benchmarks.md). veneer's own product compiles nothing; there rows are still rounded a little, so that the heap's
holes fit the next step's tensors.
"""

from __future__ import annotations

GRAIN = 64
"""Rows are filled up to a multiple of this where their number varies."""
OWN_GRAIN = 16
"""The same where veneer's own kernel makes all products of that many rows."""


def filled(rows: int, grain: int = GRAIN) -> int:
    """The next multiple of `grain`."""
    return -(-rows // grain) * grain
