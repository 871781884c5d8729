"""The rows of a run that are kept on disk: found in the cache or encoded into it, split, and accounted for.

A run holds 4 bytes per row for its length, plus a bit if not all rows are trained. The notes about rows are found by
going through the entries of the store, block by block.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Never

import numpy as np
from numpy.typing import NDArray

from veneer.config import DataSection
from veneer.data.encoded.encoding import EncodeReport, Fate, nothing_left
from veneer.data.encoded.marks import Marks, Mask
from veneer.data.encoded.token_cache import cached_tokens
from veneer.data.encoded.token_store import (
    BLOCK_ENTRIES,
    BOUND,
    CONTINUES,
    SPELLED,
    StoredExamples,
    StoredHashes,
    TokenStore,
)
from veneer.data.files.sources import STREAMED_BYTES, RunFiles
from veneer.data.kind_rows import RowReader
from veneer.data.lazy_sequence import LazySequence
from veneer.data.notes import findings, overlap_note, repeats_note
from veneer.data.problems import RowProblem
from veneer.data.splits import CountedRecords, held_out
from veneer.enums import RowKind, TokenCache
from veneer.events import Note, Subscriber, notes_to
from veneer.io.tokenizer import Tokenizer

UNSEEN = np.uint64(2**64 - 1)
"""Marks the absence of an entry."""


Hashes = NDArray[np.uint64]
Side = tuple[str, TokenStore, Marks | None]
"""The name of a kind of rows, their store, and which of its entries they are; None for all."""


@dataclass(frozen=True, slots=True)
class StoredRows:
    """The rows of a run that are kept on disk; see `veneer.data.rows.Rows`."""

    train: StoredExamples
    eval: StoredExamples | list[Never]
    skipped: tuple[RowProblem, ...]
    hashes: StoredHashes
    in_files: Counter[str]
    """The number of training examples from each file."""
    further: tuple[int, int]
    """The numbers of examples that are further pieces of a long text, among those trained and those evaluated."""


def is_cached(data: DataSection, files: Sequence[Path]) -> bool:
    """Whether the tokens of a run's rows are kept on disk."""
    if data.cache is TokenCache.AUTO:
        return sum(file.stat().st_size for file in files if file.is_file()) >= STREAMED_BYTES
    return data.cache is TokenCache.ALWAYS


def stored_rows(
    data: DataSection,
    files: RunFiles,
    tokenizer: Tokenizer,
    emit: Subscriber,
    kind: RowKind,
) -> StoredRows:
    """Read the files of a run and encode them unless that is done already, and emit the findings.

    Args:
        data: the section that says what happens to long rows, which rows are held out, and where tokens are kept.
        files: the files of rows.
        tokenizer: encodes the rows.
        emit: receives the progress, and notes about rows that repeat, were cut or were left out.
        kind: the kind as which rows are read, ANSWERS or TEXTS.

    Raises:
        DataError: a file or some of its rows cannot be used, or nothing is left to train or evaluate on.
        OutputError: tokens cannot be written.
    """
    store = cached_tokens([file.path for file in files.train], data, tokenizer, "training", emit, kind)
    sides: list[Side] = [("training", store, None)]
    if files.eval:
        other = cached_tokens([file.path for file in files.eval], data, tokenizer, "evaluation", emit, kind)
        sides.append(("evaluation", other, None))
    elif data.held_out:
        counted = CountedRecords(RowReader(store.names, data, kind), store.meta.rows)
        trained, evaluated = _apart(store, held_out(counted, data, files.train, emit))
        sides = [("training", store, trained), ("evaluation", store, evaluated)]
    _say_repeats(sides, emit)
    further = []
    for what, side, entries in sides:
        report = _account(side, entries, data.max_length)
        for line in findings(report, what):
            emit(Note(message=line))
        if not report.examples:
            left_out = len(report.dropped), report.given, len(report.untrained)
            raise nothing_left(what, report.rows, data.max_length, *left_out)
        further.append(report.further)
    _, _, own = sides[0]
    train = StoredExamples(store, own)
    return StoredRows(
        train=train,
        eval=StoredExamples(*sides[1][1:]) if len(sides) > 1 else [],
        skipped=tuple(problem for one in dict.fromkeys(side for _, side, _ in sides) for problem in one.problems()),
        hashes=StoredHashes(store, own),
        in_files=_in_files(store, own),
        further=(further[0], sum(further[1:])),
    )


def _apart(store: TokenStore, rows: Mask) -> tuple[Marks, Marks]:
    """The entries of the rows that are not marked, and those of the rows that are."""
    others, marked = Marks(len(store)), Marks(len(store))
    start, row = 0, -1
    for block in store.blocks():
        numbers = row + np.cumsum(block["flags"] & CONTINUES == 0)
        own = rows[numbers]
        others.put(start, ~own)
        marked.put(start, own)
        start, row = start + len(block), int(numbers[-1])
    return others, marked


def _account(store: TokenStore, entries: Marks | None, max_length: int) -> EncodeReport:
    """The account of the rows of one side, as if only they had been encoded."""

    def places(chosen: Callable[[NDArray[np.void]], Mask]) -> Sequence[str]:
        own = _where(store, entries, lambda block: chosen(block) & (block["flags"] & CONTINUES == 0))
        return LazySequence(len(own), lambda number: store.where(own[number]))

    def of(fate: Fate) -> Sequence[str]:
        return places(lambda block: block["fate"] == fate.value)

    problems = {problem.where: problem for problem in store.problems()}
    rows = examples = further = tokens = supervised = longest = most = 0
    at = first = -1
    bound = False
    for start, block, taken in _side(store, entries):
        rows += int((taken & (block["flags"] & CONTINUES == 0)).sum())
        examples += int((taken & (block["length"] > 0)).sum())
        further += int((taken & (block["flags"] & CONTINUES > 0)).sum())
        tokens += int(block["length"][taken].sum(dtype=np.int64))
        supervised += int(block["targets"][taken].sum(dtype=np.int64))
        lengths, given = (np.where(taken, block[name], 0) for name in ("length", "given"))
        place = int(lengths.argmax())
        if lengths[place] > longest:
            longest, at = int(lengths[place]), start + place
        place = int(given.argmax())
        if given[place] > most:
            most, first, bound = int(given[place]), start + place, bool(block["flags"][place] & BOUND)
    return EncodeReport(
        rows=rows,
        examples=examples,
        further=further,
        tokens=tokens,
        supervised=supervised,
        longest=longest,
        longest_where="" if at < 0 else store.where(at),
        given=most,
        given_where="" if first < 0 else store.where(first),
        given_is_bound=bound,
        max_length=max_length,
        dropped=of(Fate.DROPPED),
        truncated=of(Fate.TRUNCATED),
        split=of(Fate.SPLIT),
        untrained=of(Fate.UNTRAINED),
        spelled=places(lambda block: block["flags"] & SPELLED > 0),
        skipped=[problems[where] for where in of(Fate.REFUSED)],
        notes=(),
    )


def _side(store: TokenStore, entries: Marks | None) -> Iterator[tuple[int, NDArray[np.void], Mask]]:
    """For each block: the index of its first entry, the block, and which of its entries belong to a side."""
    start = 0
    for block in store.blocks():
        taken = np.ones(len(block), dtype=np.bool_) if entries is None else entries.get(start, start + len(block))
        yield start, block, taken
        start += len(block)


def _where(store: TokenStore, entries: Marks | None, chosen: Callable[[NDArray[np.void]], Mask]) -> array[int]:
    """The indices of a side's entries that `chosen` selects, 4 bytes each."""
    found = array("I")
    for start, block, taken in _side(store, entries):
        found.frombytes((start + np.flatnonzero(chosen(block) & taken)).astype(np.uintc).tobytes())
    return found


def _in_files(store: TokenStore, entries: Marks | None) -> Counter[str]:
    counts = np.zeros(len(store.names), dtype=np.int64)
    for _, block, taken in _side(store, entries):
        counts += np.bincount(block["file"][taken & (block["length"] > 0)], minlength=len(counts))
    found: Counter[str] = Counter()
    for name, count in zip(store.names, counts.tolist(), strict=True):
        found[name] += count  # a file may be named twice
    return found


# ---------------------------------------------------------------- repeats


def _say_repeats(sides: Sequence[Side], emit: Subscriber) -> None:
    """Emit notes about training rows that repeat each other, and evaluation rows that are also training rows.

    Rows are compared by 64 bits of their hashes, 8 bytes a row, which are sorted in place and then released.
    """
    notice = notes_to(emit)
    _, store, entries = sides[0]
    contents = _contents(store, entries)
    contents.sort()
    for _, other, evaluated in sides[1:]:
        shared, asked, first = 0, 0, -1
        for start, own, places in _rows(other, evaluated):
            at = np.minimum(np.searchsorted(contents, own), len(contents) - 1)
            known = np.flatnonzero(contents[at] == own)
            shared, asked = shared + len(known), asked + len(own)
            if first < 0 and len(known):
                first, value = start + int(places[known[0]]), own[known[0]]
        if shared:
            notice(overlap_note(shared, asked, other.where(first), _first_with(store, entries, value)))
    repeats, several = _repeated(contents)
    if repeats:
        notice(repeats_note(repeats, *_first_repeat(store, entries, contents, several)))


def _rows(store: TokenStore, entries: Marks | None) -> Iterator[tuple[int, Hashes, NDArray[np.int64]]]:
    """For each block: the index of its first entry, 64-bit hashes of the rows of a side, and the rows' places."""
    for start, block, taken in _side(store, entries):
        places = np.flatnonzero(taken & (block["flags"] & CONTINUES == 0))
        yield start, block["content"][places], places


def _contents(store: TokenStore, entries: Marks | None) -> Hashes:
    """64-bit hashes of the content of each row of a side."""
    found, done = np.empty(len(store), dtype=np.uint64), 0
    for _, own, _ in _rows(store, entries):
        found[done : done + len(own)] = own
        done += len(own)
    return found[:done]


def _repeated(contents: Hashes) -> tuple[int, int]:
    """The number of sorted hashes that equal the one before them, and the number of different values among these. These
    values overwrite the beginning of `contents`, so that they need no memory of their own."""
    repeats = several = 0
    for start in range(0, len(contents) - 1, BLOCK_ENTRIES):
        window = contents[start : start + BLOCK_ENTRIES + 1]
        again = window[1:][window[1:] == window[:-1]]
        repeats += len(again)
        own = np.unique(again)
        if several and len(own) and own[0] == contents[several - 1]:
            own = own[1:]
        # Each value occurs at least twice, so the values that are still to be read come later.
        contents[several : several + len(own)] = own
        several += len(own)
    return repeats, several


def _first_with(store: TokenStore, entries: Marks | None, value: np.uint64) -> str:
    """The place of a side's first row with a value."""
    found = ((start, places[own == value]) for start, own, places in _rows(store, entries))
    return next(store.where(start + int(places[0])) for start, places in found if len(places))


def _first_repeat(store: TokenStore, entries: Marks | None, contents: Hashes, several: int) -> tuple[str, str]:
    """The place of the first row that repeats an earlier one, and the place of that one.

    Args:
        store, entries: the rows.
        contents: the hashes, beginning with those that occur more than once (`_repeated`); the rest is overwritten.
        several: the number of hashes that occur more than once.
    """
    again, firsts = contents[:several], contents[several : 2 * several]
    firsts[:] = UNSEEN
    for start, own, places in _rows(store, entries):
        at = np.minimum(np.searchsorted(again, own), several - 1)
        some = again[at] == own
        at, places = at[some], places[some]
        _, begin = np.unique(at, return_index=True)
        new = np.zeros(len(at), dtype=np.bool_)
        new[begin] = True
        new &= firsts[at] == UNSEEN
        firsts[at[new]] = (start + places[new]).astype(np.uint64)
        if not new.all():
            place = int(new.argmin())
            return store.where(start + int(places[place])), store.where(int(firsts[at[place]]))
    raise AssertionError("no row repeats another")
