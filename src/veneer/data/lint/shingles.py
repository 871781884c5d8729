"""MinHash of texts, for near-duplicates (Broder 1997).

A text is the set of its runs of five words, each hashed to 32 bits. The similarity of two texts is that of their sets
(Jaccard: shared over all). The smallest hash under each of 128 random orders is equal for two texts with that
probability. Sixteen bands of eight such hashes are compared: a pair of similarity J shares a band with probability
1 - (1 - J⁸)¹⁶, which is 0.95 at 0.8 and 0.06 at 0.5. Texts that share a band are then compared exactly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from unicodedata import category
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from veneer.data.forms.record import Record

SHINGLE_WORDS = 5
BANDS, BAND_ROWS = 16, 8
_DELETED = b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_LOWER = bytes(range(256)).lower()
_FACTORS = (np.random.PCG64(np.random.SeedSequence([12, 16])).random_raw(2 * BANDS * BAND_ROWS)).astype(np.uint64)
_MULTIPLIERS, _ADDENDS = _FACTORS[: BANDS * BAND_ROWS] | np.uint64(1), _FACTORS[BANDS * BAND_ROWS :]
_PLACES = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xFF51AFD7ED558CCD],
                   dtype=np.uint64)  # fmt: skip
_LONG_WORD = 16
"""The average bytes per word from which on a text counts as written without spaces."""

_BLOCK = 4096
"""The number of hashes that are ordered at once: a book has a million of them, each with 128 numbers."""

LEAST_SIMILARITY = 0.8
"""The share of common runs of five words, among all of two rows, from which on these are near-duplicates."""

Hashes = NDArray[np.uint32]


def shingles(text: str) -> Hashes:
    """The hashes of a text's runs of five words, sorted and unique; for a shorter text one hash of all of its words.

    Case and punctuation do not count. A text without spaces (such as Chinese) is split into characters.
    """
    plain = text if text.isascii() else _plain(text)
    raw = plain.encode("utf-8", errors="surrogatepass").translate(_LOWER, _DELETED)
    words: Sequence[bytes] = raw.split()
    if len(raw) > _LONG_WORD * len(words) and not raw.isascii():
        words = [character.encode("utf-8", errors="surrogatepass") for character in plain if not character.isspace()]
    hashed = np.fromiter(map(crc32, words), dtype=np.uint64, count=len(words))
    if len(hashed) < SHINGLE_WORDS:
        hashed = np.append(hashed, np.zeros(SHINGLE_WORDS - len(hashed), dtype=np.uint64))
    runs = len(hashed) - SHINGLE_WORDS + 1
    mixed = hashed[:runs] * _PLACES[0]
    for place in range(1, SHINGLE_WORDS):
        mixed += (hashed[place : place + runs] + np.uint64(place)) * _PLACES[place]
    mixed ^= mixed >> np.uint64(29)
    mixed *= _PLACES[4]
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))


def _plain(text: str) -> str:
    """A text with non-ASCII characters, without case and punctuation, which bytes do not show there, and with plain
    spaces."""
    deleted, spaces = _signs()
    return spaces.sub(" ", deleted.sub("", text.casefold()))


@cache
def _signs() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The patterns for runs of punctuation, and for spaces beyond ASCII."""
    kinds = [(character, category(character)) for character in map(chr, range(0x80, 0x10000))]
    punctuation = _DELETED.decode() + "".join(character for character, kind in kinds if kind.startswith("P"))
    spaces = "".join(character for character, kind in kinds if kind.startswith("Z"))
    return re.compile(f"[{re.escape(punctuation)}]+"), re.compile(f"[{spaces}]")


def shingles_of(record: Record | None) -> Hashes:
    """The shingles of a record's whole text except system turns; none for a row that is not a record."""
    if record is None:
        return np.zeros(0, dtype=np.uint32)
    if record.text is not None:
        return shingles(record.text)
    turns = (message for message in record.messages if message["role"] != "system")
    return shingles("\n".join(str(turn.get("content") or "") for turn in turns))


def bands(hashes: Hashes) -> Hashes:
    """The sixteen numbers for finding a set of hashes, uint32 [BANDS].

    Among a million rows some hundred unrelated pairs share one by chance; they are compared in vain.
    """
    first = np.full(BANDS * BAND_ROWS, np.iinfo(np.uint64).max, dtype=np.uint64)
    for start in range(0, len(hashes), _BLOCK):
        ordered = hashes[start : start + _BLOCK].astype(np.uint64)[:, None] * _MULTIPLIERS + _ADDENDS
        np.minimum(first, ordered.min(axis=0), out=first)
    smallest = (first >> np.uint64(32)).reshape(BANDS, BAND_ROWS)
    found = np.full(BANDS, 0x9E3779B97F4A7C15, dtype=np.uint64)
    for row in range(BAND_ROWS):
        found = (found ^ smallest[:, row]) * _PLACES[row % 4]
        found ^= found >> np.uint64(31)
    return (found >> np.uint64(32)).astype(np.uint32)


def without(hashes: Hashes, boilerplate: Hashes) -> Hashes:
    """The hashes that are not in `boilerplate` (sorted); all of them if no others are left."""
    if not len(boilerplate):
        return hashes
    at = np.minimum(np.searchsorted(boilerplate, hashes), len(boilerplate) - 1)
    rest = hashes[boilerplate[at] != hashes]
    return rest if len(rest) else hashes


def common(sets: Sequence[Hashes], share: float) -> Hashes:
    """The hashes that are in at least this share of the sets, sorted: text that a template wrote, not a person."""
    if len(sets) < 2:
        return np.zeros(0, dtype=np.uint32)
    values, counts = np.unique(np.concatenate(sets), return_counts=True)
    return values[counts >= max(2.0, share * len(sets))]


def similarity(one: Hashes, other: Hashes) -> float:
    """The Jaccard similarity of two sets."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
