"""Encoded rows in a folder instead of in memory: written once, in order, and read by index through a memory map.

The folder contains four files:

- `tokens.bin`: the tokens of all examples end to end, int32 little-endian. The sign bit of a token marks it as trained.
- `rows.bin`: an `ENTRY_DTYPE` for each example, and for each row that was left out, in the order of the rows.
- `problems.jsonl`: the rows that cannot be encoded, with their reasons.
- `meta.json`: the notes from encoding, and the size and SHA-256 of the other files, which reveal damage.

For each example only its length is kept in memory, in 4 bytes, plus a bit if not all rows are trained.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from veneer.data.encoded.chat import Example
from veneer.data.encoded.encoding import EncodedRow
from veneer.data.encoded.marks import Marks
from veneer.data.files.given_names import shown_name
from veneer.data.problems import RowProblem
from veneer.data.records import fingerprint
from veneer.data.trained_rows import HASH_BYTES, row_hashes
from veneer.errors import DataError
from veneer.io.digests import file_digest
from veneer.io.files import reported, write_text
from veneer.runtime.posix import release_pages
from veneer.text.strict_json import to_text

FORMAT_VERSION = 1
TOKENS_FILE, ROWS_FILE, PROBLEMS_FILE, META_FILE = "tokens.bin", "rows.bin", "problems.jsonl", "meta.json"
SPELLED, CONTINUES, BOUND = 1, 2, 4
"""Flags of an entry: the row spells a control token; the entry is a further piece of the row before it; the row is
longer than the entry says."""
ENTRY_DTYPE = np.dtype(
    [
        ("start", "<i8"), ("length", "<u4"), ("targets", "<u4"), ("given", "<u4"), ("file", "<u4"), ("line", "<i8"),
        ("content", "<u8"), ("hash", f"V{HASH_BYTES}"), ("fate", "u1"), ("flags", "u1"), ("unused", "V6"),
    ]
)  # fmt: skip
"""An entry of `rows.bin`, 56 bytes: the start and number of its tokens (0 if the row was left out), its targets, the
tokens of the whole row, the index of its file, its line, hashes of its content (`records.fingerprint`,
`trained_rows`), its `Fate` and its flags."""
_ENTRY_STRUCT = Struct("<qIIIIq8s8sBB6x")
"""The binary layout of an entry."""
BLOCK_ENTRIES = 1 << 16
"""The number of entries that are read at a time."""
_TRAINS = np.int32(-(1 << 31))
_EXAMPLES_PER_RELEASE = 8
"""The number of examples after which the pages of the map are released: Linux may map two megabytes around a number
that is read, and all of it counts as memory of the process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreMeta:
    """The content of `meta.json` apart from the sizes and digests of the files."""

    names: list[str]
    """The files of rows, as they are named in the places of rows."""
    rows: int
    """The number of rows, without those that are not records."""
    entries: int
    tokens: int
    notes: list[str] = field(default_factory=list)
    """The notes about the files and their rows."""
    digest: str
    """The digest of all examples, see `veneer.data.rows.Rows.digest`."""


class _HashedFile:
    """A file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("xb", buffering=1 << 20)
        self._state = hashlib.sha256()
        self._bytes = 0

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self._state.update(content)
        self._bytes += len(content)

    def close(self) -> dict[str, Any]:
        self._file.close()
        return {"bytes": self._bytes, "sha256": self._state.hexdigest()}


class StoreWriter:
    """Writes a store into an empty folder, row by row. Use it as a context manager, inside `atomic_folder`.

    Args:
        folder: the folder.
        names: the files of rows, in order, as they are named in the places of rows; one may be named twice.

    Raises:
        OutputError: a file cannot be written.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.rows = 0
        self.examples = 0
        self._folder = folder
        self._names = list(names)
        self._numbers = {shown_name(name): number for number, name in enumerate(names)}
        self._entries = 0
        self._start = 0
        self._digest = hashlib.blake2b(digest_size=16)

    def __enter__(self) -> StoreWriter:
        with reported(self._folder):
            self._files = {name: _HashedFile(self._folder / name) for name in (TOKENS_FILE, ROWS_FILE, PROBLEMS_FILE)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    def add(self, encoded: EncodedRow) -> None:
        """Append the result of encoding a row."""
        record = encoded.record
        self.rows += 1
        with reported(self._folder):
            examples = encoded.examples or (None,)
            name, _, number = record.where.rpartition(":")
            row = self._numbers[name], int(number), fingerprint(record)[:8], row_hashes((record,)), encoded.fate.value
            for place, example in enumerate(examples):
                flags = (SPELLED * encoded.spelled) | (CONTINUES * (place > 0)) | (BOUND * encoded.length_is_bound)
                length, targets = (0, 0) if example is None else (len(example.tokens), example.supervised)
                self._files[ROWS_FILE].write(
                    _ENTRY_STRUCT.pack(self._start, length, targets, encoded.length, *row, flags)
                )
                self._entries += 1
                if example is not None:
                    self._add_tokens(example)

    def _add_tokens(self, example: Example) -> None:
        laid = np.where(example.loss_mask, example.tokens | _TRAINS, example.tokens)
        self._files[TOKENS_FILE].write(laid.astype("<i4").tobytes())
        self._start += len(laid)
        self.examples += 1
        add_to_digest(self._digest, example)

    def finish(self, notes: Sequence[str], problems: Iterable[RowProblem]) -> None:
        """Close the files and write `meta.json`.

        Args:
            notes: the notes about the files and their rows.
            problems: the rows that were left out because they cannot be used.
        """
        with reported(self._folder):
            for problem in problems:
                line = to_text(asdict(problem), ensure_ascii=False) + "\n"
                self._files[PROBLEMS_FILE].write(line.encode("utf-8", "surrogatepass"))
            files = {name: file.close() for name, file in self._files.items()}
        meta = StoreMeta(
            names=self._names,
            rows=self.rows,
            entries=self._entries,
            tokens=self._start,
            notes=list(notes),
            digest=self._digest.hexdigest(),
        )
        write_text(
            self._folder / META_FILE,
            to_text({"format": FORMAT_VERSION, "files": files, **asdict(meta)}, indent=1) + "\n",
        )


def add_to_digest(state: hashlib.blake2b, example: Example) -> None:
    """Add the tokens of an example and its loss mask to a digest of rows."""
    state.update(len(example.tokens).to_bytes(4, "little"))
    state.update(example.tokens.tobytes())
    state.update(example.loss_mask.tobytes())


class TokenStore:
    """A folder that `StoreWriter` wrote, opened for reading.

    Args:
        folder: the folder.
        names: the present paths of the files of rows, in the order of `meta.json`; by default the paths there.

    Raises:
        DataError: the folder is damaged, or of another version; the message says what is wrong.
    """

    def __init__(self, folder: Path, names: Sequence[str] | None = None) -> None:
        self.meta = _read_meta(folder)
        self.names = self.meta.names if names is None else list(names)
        self._shown = list(map(shown_name, self.names))
        self._now = dict(zip(map(shown_name, self.meta.names), self._shown, strict=True))
        self._folder = folder
        self._maps: dict[str, mmap.mmap] = {}
        for name in (TOKENS_FILE, ROWS_FILE):
            with (folder / name).open("rb") as file:
                self._maps[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._tokens = np.frombuffer(self._maps[TOKENS_FILE], dtype="<i4")
        self._entries = np.frombuffer(self._maps[ROWS_FILE], dtype=ENTRY_DTYPE)
        self._read = 0

    def __len__(self) -> int:
        return len(self._entries)

    def blocks(self) -> Iterator[NDArray[np.void]]:
        """All entries, in order, BLOCK_ENTRIES at a time."""
        for start in range(0, len(self._entries), BLOCK_ENTRIES):
            yield self._entries[start : start + BLOCK_ENTRIES].copy()
            self._release()

    def example(self, number: int) -> Example:
        """The example of an entry that was not left out."""
        entry = self._entries[number]
        start, length = int(entry["start"]), int(entry["length"])
        laid = self._tokens[start : start + length]
        example = Example((laid & ~_TRAINS).astype(np.int32), laid < 0, self.place(entry))
        self._read += 1
        if self._read % _EXAMPLES_PER_RELEASE == 0:
            self._release()
        return example

    def where(self, number: int) -> str:
        """The file and line of an entry."""
        return self.place(self._entries[number])

    def place(self, entry: np.void) -> str:
        """The file and line of an entry."""
        return f"{self._shown[int(entry['file'])]}:{int(entry['line'])}"

    def problems(self) -> list[RowProblem]:
        """The rows that could not be encoded."""
        # Bytes end a line at line feeds only; text would also end it at U+2028, which JSON does not escape.
        lines = (self._folder / PROBLEMS_FILE).read_bytes().splitlines()
        values = (json.loads(line.decode("utf-8", errors="surrogatepass")) for line in lines)
        return [RowProblem(self._place_now(one["where"]), one["reason"]) for one in values]

    def notes(self) -> list[str]:
        """The notes about the files and their rows from encoding, with the present names of the files."""
        # In one pass, so that a new name is never taken for an old one, and the longest matching name first.
        names = "|".join(re.escape(name) for name in sorted(self._now, key=len, reverse=True))
        named = re.compile(rf"(?<![\w./-])(?:{names})(?![\w/-])")
        return [named.sub(lambda found: self._now[found[0]], note) for note in self.meta.notes]

    def _place_now(self, where: str) -> str:
        """The place of a row, with the present name of its file."""
        name, _, line = where.rpartition(":")
        return f"{self._now[name]}:{line}"

    def _release(self) -> None:
        for mapped in self._maps.values():
            release_pages(mapped)


def _read_meta(folder: Path) -> StoreMeta:
    try:
        values = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
        found, files = values.pop("format"), values.pop("files")
        if found != FORMAT_VERSION:
            raise DataError(f"it has format {found}, but this version of veneer has {FORMAT_VERSION}")
        meta = StoreMeta(**values)
        for name in (TOKENS_FILE, ROWS_FILE, PROBLEMS_FILE):
            size, now = files[name]["bytes"], (folder / name).stat().st_size
            if size != now:
                raise DataError(f"{name} has {now:,} bytes, but {size:,} were written")
            if file_digest(folder / name) != files[name]["sha256"]:
                raise DataError(f"{name} does not contain what was written")
    except OSError as error:
        raise DataError(f"{Path(error.filename or folder).name} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{META_FILE} is damaged: {error}") from error
    return meta


class StoredExamples:
    """A selection of a store's examples, by their index in the selection (`veneer.data.rows.Examples`).

    Args:
        store: the store.
        entries: the selected entries; those that were left out are never selected. None selects all.
    """

    def __init__(self, store: TokenStore, entries: Marks | None = None) -> None:
        self.store = store
        self.supervised = 0
        """The number of targets of all examples."""
        # Filled in place: lists of parts would take the same memory again.
        lengths, done = np.empty(len(store), dtype=np.uint32), 0
        members = Marks(len(store))
        for start, block, taken in _taken(store, entries):
            own = block["length"][taken]
            lengths[done : done + len(own)] = own
            done += len(own)
            members.put(start, taken)
            self.supervised += int(block["targets"][taken].sum(dtype=np.int64))
        self.lengths = lengths if done == len(store) else lengths[:done].copy()
        """The tokens of each example, uint32 [examples]."""
        self._members = None if done == len(store) else members

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int, /) -> Example:
        if not 0 <= number < len(self):
            raise IndexError(f"example {number} of {len(self)}")
        return self.store.example(self.entry(number))

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))

    def entry(self, number: int) -> int:
        """The entry of an example in the store."""
        return number if self._members is None else self._members.nth(number)

    @property
    def whole(self) -> bool:
        """Whether all examples of the store are selected, so that their digest is known."""
        return int(self.lengths.sum(dtype=np.int64)) == self.store.meta.tokens

    def where(self, number: int) -> str:
        """The file and line of an example, without reading it."""
        return self.store.where(self.entry(number))


@dataclass(frozen=True, slots=True)
class StoredHashes:
    """The hashes of the rows that are trained, in a piece for each block of entries; they can be iterated again."""

    store: TokenStore
    entries: Marks | None
    """The selected entries; None selects all that were not left out."""

    def __iter__(self) -> Iterator[bytes]:
        for _, block, taken in _taken(self.store, self.entries):
            yield block["hash"][taken & (block["flags"] & CONTINUES == 0)].tobytes()


def _taken(store: TokenStore, entries: Marks | None) -> Iterator[tuple[int, NDArray[np.void], NDArray[np.bool_]]]:
    """For each block of entries: the index of its first entry, the block, and which of its entries are selected
    examples."""
    start = 0
    for block in store.blocks():
        taken = block["length"] > 0
        yield start, block, taken if entries is None else taken & entries.get(start, start + len(block))
        start += len(block)
