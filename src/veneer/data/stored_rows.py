"""The rows of a run that are kept on the disk: found in the cache or encoded into it, split, and accounted for.

What a run holds of a row is 4 bytes for its length, and 4 for its number where not all rows are trained. What is said
of rows is found by going through the entries of the store, block by block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Never, overload

import numpy as np
from numpy.typing import NDArray

from veneer.config import DataSection
from veneer.data.account import findings, overlap_note, repeats_note
from veneer.data.encoding import EncodeReport, Fate, nothing_left
from veneer.data.problems import RowProblem
from veneer.data.records import RecordReader
from veneer.data.sources import STREAMED_FROM, RowFile
from veneer.data.splits import CountedRecords, held_out
from veneer.data.token_cache import cached_tokens
from veneer.data.token_store import BOUND, CONTINUES, SPELLED, StoredExamples, StoredHashes, TokenStore
from veneer.enums import TokenCache
from veneer.events import Note, Subscriber, notes_to
from veneer.io.tokenizer import Tokenizer

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class StoredRows:
    """The rows of a run that are kept on the disk; see `veneer.data.rows.Rows`."""

    train: StoredExamples
    eval: StoredExamples | list[Never]
    skipped: tuple[RowProblem, ...]
    hashes: StoredHashes
    in_files: Counter[str]
    """The number of training examples from each file."""


def is_cached(data: DataSection, files: Sequence[Path]) -> bool:
    """Whether the tokens of a run's rows are kept on the disk."""
    if data.cache is TokenCache.AUTO:
        return sum(file.stat().st_size for file in files if file.is_file()) >= STREAMED_FROM
    return data.cache is TokenCache.ALWAYS


def stored_rows(
    data: DataSection,
    files: Sequence[RowFile],
    eval_files: Sequence[RowFile],
    tokenizer: Tokenizer,
    emit: Subscriber,
) -> StoredRows:
    """Read and encode the files of a run where that is not done already, and say what was found.

    Args:
        data: says what happens to long rows, which rows are held out, and where tokens are kept.
        files, eval_files: the files of rows.
        tokenizer: encodes the rows.
        emit: told how far it is, and of rows that repeat, were cut or were left out.

    Raises:
        DataError: a file or some of its rows cannot be used, or nothing is left to train or evaluate on.
        OutputError: tokens cannot be written.
    """
    store = cached_tokens([file.path for file in files], data, tokenizer, "training", emit)
    sides: list[tuple[str, TokenStore, Mask | None]] = [("training", store, None)]
    if eval_files:
        other = cached_tokens([file.path for file in eval_files], data, tokenizer, "evaluation", emit)
        sides.append(("evaluation", other, None))
    elif data.held_out:
        reader = RecordReader(store.names, data.columns, data.bad_rows)
        evaluated = _of_entries(store, held_out(CountedRecords(reader, store.meta.rows), data))
        sides = [("training", store, ~evaluated), ("evaluation", store, evaluated)]
    _say_repeats(sides, emit)
    for what, side, entries in sides:
        report = _account(side, entries, data.max_length)
        for line in findings(report, what):
            emit(Note(message=line))
        if not report.examples:
            left_out = len(report.dropped), report.longest, len(report.untrained)
            raise nothing_left(report.rows, data.max_length, *left_out)
    _, _, trained = sides[0]
    train = StoredExamples(store, trained)
    return StoredRows(
        train=train,
        eval=StoredExamples(*sides[1][1:]) if len(sides) > 1 else [],
        skipped=tuple(problem for one in dict.fromkeys(side for _, side, _ in sides) for problem in one.problems()),
        hashes=StoredHashes(store, trained),
        in_files=_in_files(store, trained),
    )


def _of_entries(store: TokenStore, rows: Mask) -> Mask:
    """For each entry whether its row is marked."""
    found, done, row = np.empty(len(store), dtype=np.bool_), 0, -1
    for block in store.blocks():
        numbers = row + np.cumsum(block["flags"] & CONTINUES == 0)
        found[done : done + len(block)] = rows[numbers]
        done, row = done + len(block), int(numbers[-1])
    return found


class Places(Sequence[str]):
    """Where some entries of a store stand, which is looked up as it is asked for.

    Args:
        store: the store.
        entries: the numbers of the entries.
    """

    def __init__(self, store: TokenStore, entries: NDArray[np.int64]) -> None:
        self._store, self._entries = store, entries

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, number: int) -> str: ...

    @overload
    def __getitem__(self, number: slice) -> list[str]: ...

    def __getitem__(self, number: int | slice) -> str | list[str]:
        if isinstance(number, slice):
            return [self._store.where(entry) for entry in self._entries[number].tolist()]
        return self._store.where(int(self._entries[number]))


def _account(store: TokenStore, entries: Mask | None, max_length: int) -> EncodeReport:
    """The account of the rows of one side, as encoding them alone would give it."""

    def places(chosen: Callable[[NDArray[np.void]], Mask]) -> Places:
        return Places(store, _where(store, entries, lambda block: chosen(block) & (block["flags"] & CONTINUES == 0)))

    def of(fate: Fate) -> Places:
        return places(lambda block: block["fate"] == fate.value)

    problems = {problem.where: problem for problem in store.problems()}
    rows = examples = tokens = supervised = longest = 0
    at, bound = -1, False
    for start, block, taken in _side(store, entries):
        rows += int((taken & (block["flags"] & CONTINUES == 0)).sum())
        examples += int((taken & (block["length"] > 0)).sum())
        tokens += int(block["length"][taken].sum(dtype=np.int64))
        supervised += int(block["targets"][taken].sum(dtype=np.int64))
        given = np.where(taken, block["given"], 0)
        place = int(given.argmax())
        if given[place] > longest:
            longest, at, bound = int(given[place]), start + place, bool(block["flags"][place] & BOUND)
    return EncodeReport(
        rows=rows,
        examples=examples,
        tokens=tokens,
        supervised=supervised,
        longest=longest,
        longest_where="" if at < 0 else store.where(at),
        longest_is_bound=bound,
        max_length=max_length,
        dropped=of(Fate.DROPPED),
        truncated=of(Fate.TRUNCATED),
        split=of(Fate.SPLIT),
        untrained=of(Fate.UNTRAINED),
        spelled=places(lambda block: block["flags"] & SPELLED > 0),
        skipped=[problems[where] for where in of(Fate.REFUSED)],
        notes=(),
    )


def _side(store: TokenStore, entries: Mask | None) -> Iterator[tuple[int, NDArray[np.void], Mask]]:
    """For each block the number of its first entry, itself, and which of its entries belong to a side."""
    start = 0
    for block in store.blocks():
        taken = np.ones(len(block), dtype=np.bool_) if entries is None else entries[start : start + len(block)]
        yield start, block, taken
        start += len(block)


def _where(store: TokenStore, entries: Mask | None, chosen: Callable[[NDArray[np.void]], Mask]) -> NDArray[np.int64]:
    """The numbers of a side's entries that are chosen."""
    found = [start + np.flatnonzero(chosen(block) & taken) for start, block, taken in _side(store, entries)]
    return np.concatenate(found)


def _in_files(store: TokenStore, entries: Mask | None) -> Counter[str]:
    counts = np.zeros(len(store.names), dtype=np.int64)
    for _, block, taken in _side(store, entries):
        counts += np.bincount(block["file"][taken & (block["length"] > 0)], minlength=len(counts))
    return Counter(dict(zip(store.names, counts.tolist(), strict=True)))


# ---------------------------------------------------------------- repeats


def _say_repeats(sides: Sequence[tuple[str, TokenStore, Mask | None]], emit: Subscriber) -> None:
    """Say which training rows repeat each other, and which evaluation rows are training rows too.

    Rows are compared by 64 bits of their hashes, which are sorted and given up again.
    """
    notice = notes_to(emit)
    _, store, entries = sides[0]
    contents = _contents(store, entries)
    contents.sort()
    repeats = contents[1:][contents[1:] == contents[:-1]]
    if len(sides) > 1:
        _, other, evaluated = sides[1]
        asked = _contents(other, evaluated)
        at = np.minimum(np.searchsorted(contents, asked), len(contents) - 1)
        shared = contents[at] == asked
        if shared.any():
            value = asked[int(shared.argmax())]
            first = _first_with(other, evaluated, value), _first_with(store, entries, value)
            notice(overlap_note(int(shared.sum()), len(asked), *first))
    if len(repeats):
        notice(repeats_note(len(repeats), *_first_repeat(store, entries, np.unique(repeats))))


def _contents(store: TokenStore, entries: Mask | None) -> NDArray[np.uint64]:
    """64 bits of what each row of a side says."""
    found, done = np.empty(len(store), dtype=np.uint64), 0
    for _, block, taken in _side(store, entries):
        own = block["content"][taken & (block["flags"] & CONTINUES == 0)]
        found[done : done + len(own)] = own
        done += len(own)
    return found[:done]


def _first_with(store: TokenStore, entries: Mask | None, value: np.uint64) -> str:
    """Where the first row of a side stands that says something."""
    return store.where(int(_where(store, entries, lambda block: block["content"] == value)[0]))


def _first_repeat(store: TokenStore, entries: Mask | None, again: NDArray[np.uint64]) -> tuple[str, str]:
    """Where the first row stands that repeats an earlier one, and that one; `again` are the contents that repeat."""
    seen: dict[int, int] = {}
    for start, block, taken in _side(store, entries):
        own = taken & (block["flags"] & CONTINUES == 0) & np.isin(block["content"], again)
        for place in np.flatnonzero(own).tolist():
            first = seen.setdefault(int(block["content"][place]), start + place)
            if first != start + place:
                return store.where(start + place), store.where(first)
    raise AssertionError("no row repeats another")
