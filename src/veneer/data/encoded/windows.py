"""A long text, tokenised in windows: its tokens are those of the whole text, and it needs little additional memory.

The tokenizers library uses some 150 bytes per character while it tokenises a text, so it gets a window of the text at a
time. A window begins where a token of the previous one begins, and shares the following characters with it. If the
tokens of both are equal in the middle of the shared part, the text continues there with the second window: tokenizers
merge characters locally, so the edges of a window have no effect in the middle. If they are not equal (for example in
an endless word that is one unknown token), the window is doubled, up to the whole text.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from veneer.data.templates.turn_shape import Span

WINDOW_CHARS = 1 << 18
"""The characters of a window. A text that is not longer is tokenised at once."""
EDGE_CHARS = 1 << 11
"""The number of characters at either edge of a window whose tokens do not count."""
TRIED_BEGINNINGS = 8
"""The number of tried beginnings of a window: after a part of a group of digits, the next digits group differently."""

Encode = Callable[[str], tuple[list[int], list[Span]]]
"""Gives the ids of a text, and the range of characters [start, end) of each."""


def _untold(characters: int) -> None:
    """Gets the number of further characters that are done, and does nothing."""


def in_windows(
    encode: Encode,
    text: str,
    before: Sequence[int] = (),
    behind: Sequence[int] = (),
    advance: Callable[[int], None] = _untold,
    *,
    window: int = WINDOW_CHARS,
    edge: int = EDGE_CHARS,
) -> tuple[NDArray[np.int32], Sequence[Span]]:
    """The ids of a text, [tokens], and the range of characters [start, end) of each, as `encode` gives them.

    Args:
        encode: tokenises a text.
        text: the text.
        before, behind: ids that are put before and after those of the text; their ranges are empty.
        advance: gets the number of further characters that are done, for a text longer than a window.
        window: the characters of a window, at least ten times `edge`.
        edge: the number of characters at either edge of a window whose tokens do not count.
    """
    if len(text) <= window:
        found, places = encode(text)
        end = len(text)
        around = [*((0, 0) for _ in before), *places, *((end, end) for _ in behind)]
        return np.asarray([*before, *found, *behind], dtype=np.int32), around
    ids, ranges, done = array("i", before), _Ranges(encode, text), 0
    ranges.add(0, 0, 0, len(before))
    for part in _parts(encode, text, window, edge):
        ranges.add(part.window.start, part.window.end, part.skipped, part.taken)
        ids.extend(part.window.ids[part.skipped : part.taken])
        advance(part.window.end - done)
        done = part.window.end
    ids.extend(behind)
    ranges.add(len(text), len(text), 0, len(behind))
    return np.frombuffer(ids, dtype=np.int32), ranges


class _Window:
    """The tokens of a range of characters of a text."""

    def __init__(self, encode: Encode, text: str, start: int, size: int) -> None:
        self.start, self.end = start, min(start + size, len(text))
        self.ids, ranges = encode(text[start : self.end])
        self.ranges = np.asarray(ranges, dtype=np.int64).reshape(-1, 2) + start
        """The range of each token in the whole text, [tokens, 2]."""

    def beginnings(self, before: int) -> list[int]:
        """The last `TRIED_BEGINNINGS` characters up to `before` at which a token begins and which no earlier token
        contains, the last one first."""
        starts, ends = self.ranges[:, 0], self.ranges[:, 1]
        held = np.maximum.accumulate(np.append(self.start, ends[:-1]))
        found = np.unique(starts[(starts >= held) & (starts > self.start) & (starts <= before)])
        return [int(start) for start in found[: -TRIED_BEGINNINGS - 1 : -1]]

    def within(self, start: int, end: int) -> slice:
        """The tokens that begin in [start, end)."""
        inside = np.flatnonzero((self.ranges[:, 0] >= start) & (self.ranges[:, 0] < end))
        return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)


@dataclass(frozen=True, slots=True)
class _Part:
    """The tokens that are used of a window."""

    window: _Window
    skipped: int
    """The index of the first token."""
    taken: int
    """The index after the last token."""


def _parts(encode: Encode, text: str, size: int, edge: int) -> Iterator[_Part]:
    now, skipped = _Window(encode, text, 0, size), 0
    while now.end < len(text):
        judged = now.end - 3 * edge, now.end - edge
        for start in now.beginnings(now.end - 4 * edge):
            following = _Window(encode, text, start, size)
            own, other = now.within(*judged), following.within(*judged)
            if (
                following.end > now.end
                and skipped <= own.start < own.stop
                and now.ids[own] == following.ids[other]
                and np.array_equal(now.ranges[own], following.ranges[other])
            ):
                yield _Part(now, skipped, own.start)
                now, skipped = following, other.start
                break
        else:
            now = _Window(encode, text, now.start, 2 * (now.end - now.start))
    yield _Part(now, skipped, len(now.ids))


class _Ranges(Sequence[Span]):
    """The ranges of a text's tokens. Holding them would take twice the memory of the tokens, and few are needed. So
    they are computed again on demand, and those of one window are kept."""

    def __init__(self, encode: Encode, text: str) -> None:
        self._encode, self._text = encode, text
        self._count = 0
        self._firsts: list[int] = []
        self._parts: list[tuple[int, int, int]] = []
        """The characters [start, end) of each window, and the number of its tokens that are skipped."""
        self._kept: tuple[int, _Window] | None = None

    def add(self, start: int, end: int, skipped: int, taken: int) -> None:
        """Append the tokens `skipped` to `taken` of the window [start, end); those of an empty one have no text."""
        if taken > skipped:
            self._firsts.append(self._count)
            self._parts.append((start, end, skipped))
            self._count += taken - skipped

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Span: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Span]: ...
    def __getitem__(self, index: int | slice) -> Span | Sequence[Span]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._count))]
        number = range(self._count)[index]
        place = bisect_right(self._firsts, number) - 1
        start, end, skipped = self._parts[place]
        if start == end:
            return start, end
        if self._kept is None or self._kept[0] != place:
            self._kept = place, _Window(self._encode, self._text, start, end - start)
        first, last = self._kept[1].ranges[skipped + number - self._firsts[place]].tolist()
        return first, last
