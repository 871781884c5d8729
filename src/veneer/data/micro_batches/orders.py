"""A random order of numbers: equal on every machine, and made in little memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NUMBERS_AT_ONCE = 1 << 20
"""The approximate number of numbers of a permutation that are sorted at a time."""

Indices = NDArray[np.int64] | NDArray[np.uint32]


def order(num_examples: int, *, seed: int, epoch: int) -> Indices:
    """The order of the examples in an epoch, [num_examples]: a permutation of their indices.

    The order is equal on every machine and with every numpy version: it sorts one 64-bit word per example, taken raw
    from PCG64 seeded with SeedSequence([seed, epoch]). numpy promises that these two streams do not change, while
    `Generator.permutation` may use them differently in another version.

    Args:
        num_examples: the number of examples.
        seed: the seed of the run, at least 0.
        epoch: the number of the epoch, from 0.
    """
    if num_examples <= NUMBERS_AT_ONCE:
        words = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(num_examples)
        return np.argsort(words, kind="stable").astype(np.int64, copy=False)
    return _order_in_parts(num_examples, seed, epoch)


def _order_in_parts(count: int, seed: int, epoch: int) -> NDArray[np.uint32]:
    """The permutation of `order` in four bytes per number and little further memory: the words are drawn again for each
    part of their range, and only those of that part are sorted."""
    found, done = np.empty(count, dtype=np.uint32), 0
    parts = min(256, 1 + count // NUMBERS_AT_ONCE)
    for part in range(parts):
        source = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
        words, places = [], []
        for start in range(0, count, NUMBERS_AT_ONCE):
            drawn = source.random_raw(min(NUMBERS_AT_ONCE, count - start))
            own = np.flatnonzero((drawn >> np.uint64(56)) * np.uint64(parts) // np.uint64(256) == part)
            words.append(drawn[own])
            places.append((start + own).astype(np.uint32))
        ordered = np.concatenate(places)[np.argsort(np.concatenate(words), kind="stable")]
        found[done : done + len(ordered)] = ordered
        done += len(ordered)
    return found
