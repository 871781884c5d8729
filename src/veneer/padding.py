"""Pads matrix products to few different numbers of rows.

The library behind torch's products (oneDNN) compiles and keeps a kernel for each shape, at about 3 ms and 0.6 MB each.
If every number of tokens had its own, that would be a tenth of a training step, and hundreds of MB over a run
(docs/benchmarks-tried.md). veneer's own product compiles nothing. There rows are still padded a little, so that the
free blocks of the heap fit the next step's tensors.
"""

from __future__ import annotations

PAD_TO_MULTIPLE_OF = 64
"""Rows are padded to a multiple of this if their number varies."""
OWN_PAD_TO_MULTIPLE_OF = 16
"""Rows are padded to a multiple of this if veneer's own kernel computes all products with that many rows."""


def pad_to_multiple(rows: int, pad_to_multiple_of: int = PAD_TO_MULTIPLE_OF) -> int:
    """The smallest multiple of `pad_to_multiple_of` that is at least `rows`."""
    return -(-rows // pad_to_multiple_of) * pad_to_multiple_of
