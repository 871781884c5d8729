"""The number of rows in a matrix product, kept to few values.

The library behind torch's products (oneDNN) compiles and keeps a kernel for each shape that it meets, at about 3 ms and
0.6 MB each. With every number of tokens its own, that is a tenth of a training step, and hundreds of MB over a run
(docs/benchmarks-tried.md). veneer's own product compiles nothing; there rows are still rounded a little, so that the
heap's holes fit the next step's tensors.
"""

from __future__ import annotations

PAD_TO_MULTIPLE_OF = 64
"""Rows are padded up to a multiple of this where their number varies."""
OWN_PAD_TO_MULTIPLE_OF = 16
"""Rows are padded up to a multiple of this where veneer's own kernel makes all products of that many rows."""


def pad_to_multiple(rows: int, pad_to_multiple_of: int = PAD_TO_MULTIPLE_OF) -> int:
    """The smallest multiple of `pad_to_multiple_of` that is at least `rows`."""
    return -(-rows // pad_to_multiple_of) * pad_to_multiple_of
