"""The facts of every row that are kept to compare rows: numbers only, about 150 bytes a row.

A text is kept as the first 64 bits of its BLAKE2 hash. Among a million rows, two different texts have equal hashes with
a probability of 3·10⁻⁸.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from veneer.data.forms.labels import LABEL_KEYS, read_label
from veneer.data.group_values import group_of
from veneer.data.lint.labels import LONGEST_LABEL_CHARS, Labels
from veneer.data.lint.languages import language_of
from veneer.data.lint.row import Row, raw_turns
from veneer.data.lint.shingles import BANDS, Hashes, bands, shingles_of, without
from veneer.data.lint.spill import Spill
from veneer.enums import RowKind

TRAINING, EVALUATION = 0, 1
DESIRABLE, UNDESIRABLE = 1, 2
GROUP_COLUMNS = (
    *("group", "group_id", "conversation_id", "document_id", "doc_id", "session_id", "thread_id"),
    *("user_id", "customer_id", "patient_id", "speaker_id", "author_id"),
)
"""Columns that say which rows belong together, used if no other is named: the first one that a row has."""
Hash = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class FileFacts:
    """One entry per row, in the order of the files: first the training rows, then the evaluation rows."""

    files: tuple[str, ...]
    """The training files, followed by the evaluation files if there are any."""
    starts: tuple[int, ...]
    """The index of the first row of each file."""
    lines: NDArray[np.int64]
    """The line or number of each row in its file."""
    side: NDArray[np.uint8]
    """TRAINING or EVALUATION."""
    usable: NDArray[np.bool_]
    """Whether the row is a record; for other rows the fields below have no meaning."""
    content: Hash
    """The whole text of the row, ignoring case and white space."""
    prompt: Hash
    """The text before the answer; 0 for plain text."""
    answer: Hash
    answer_length: NDArray[np.int32]
    """Characters of the answer."""
    length: NDArray[np.int32]
    """The tokens of the row (of a pair in a run of pairs, those of both answers, each after its prompt); characters if
    no model is named, or if the row cannot be encoded."""
    counted: NDArray[np.bool_]
    """Whether the length is in tokens."""
    targets: NDArray[np.int32]
    """The trained tokens among these; 0 if no model is named."""
    shape: Hash
    """The row's keys, and its messages' keys."""
    group: Hash
    """The value of the column by which rows belong together; 0 if there is none."""
    language: NDArray[np.uint8]
    """The language of the answer, or of a prompt without one (`languages.LANGUAGES`)."""
    rejected: Hash
    """The rejected answer of a pair; 0 for other rows."""
    rejected_length: NDArray[np.int32]
    """Characters of the rejected answer."""
    label: NDArray[np.uint8]
    """DESIRABLE or UNDESIRABLE for a row that is labelled so, 0 for others."""
    unanswered: NDArray[np.bool_]
    """Whether the row cannot be used but is a prompt, which another objective accepts."""
    exact: Hash
    """Prompt and answer of a labelled row as they are written, except white space at their ends; 0 for others."""
    bands: Hashes
    """The bands for finding near-duplicates (`shingles`), [rows, BANDS]."""
    shingles: Spill
    """The shingles of each row."""
    labels: Labels
    """The answers of the training rows, if they are short."""

    def __len__(self) -> int:
        return len(self.side)

    def where(self, row: int) -> str:
        """The file and line of a row."""
        return f"{self.files[bisect_right(self.starts, row) - 1]}:{int(self.lines[row])}"


class RowFacts(NamedTuple):
    """The facts of one row; see `FileFacts`."""

    line: int
    side: int
    usable: bool
    language: int = 0
    label: int = 0
    counted: bool = False
    unanswered: bool = False
    answer_length: int = 0
    length: int = 0
    targets: int = 0
    rejected_length: int = 0
    content: int = 0
    prompt: int = 0
    answer: int = 0
    rejected: int = 0
    shape: int = 0
    group: int = 0
    exact: int = 0


TABLE_DTYPE = np.dtype(
    [
        ("line", np.int64), ("side", np.uint8), ("usable", np.bool_), ("language", np.uint8), ("label", np.uint8),
        ("counted", np.bool_), ("unanswered", np.bool_),
        ("answer_length", np.int32), ("length", np.int32), ("targets", np.int32), ("rejected_length", np.int32),
        ("content", np.uint64), ("prompt", np.uint64), ("answer", np.uint64), ("rejected", np.uint64),
        ("shape", np.uint64), ("group", np.uint64), ("exact", np.uint64),
    ],
    align=True,
)  # fmt: skip
"""The memory layout of `RowFacts`, 88 bytes a row."""


def facts_of(row: Row, side: int, group: str | None, kind: RowKind | None = None) -> RowFacts:
    """The facts of a row of one side, with the column by which rows belong together; `kind` is the kind as which it is
    read (`LintSetting.rows`)."""
    line = int(row.where.rpartition(":")[2])
    if row.record is None:
        return RowFacts(line, side, usable=False, unanswered=row.unanswered)
    prompt, answer = normal(row.prompt), normal(row.answer)
    own, label = _group(row.raw, group), _label(row, kind)
    # A run of pairs computes and trains both answers.
    both = [row, *([row.other] if kind is RowKind.PAIRS and row.other is not None else [])]
    examples = [one.trace.example for one in both if one.trace is not None]
    characters = sum(len(one.prompt) + len(one.answer) for one in both)
    return RowFacts(
        line,
        side,
        usable=True,
        language=language_of(row.answer if row.asked is None else row.prompt),
        label=label,
        counted=row.trace is not None,
        answer_length=len(row.answer),
        length=sum(len(one.tokens) for one in examples) if examples else characters,
        targets=sum(one.supervised for one in examples),
        rejected_length=len(row.rejected_answer),
        content=digest("\0".join((prompt, answer, *([normal(row.rejected_answer)] if row.rejected_answer else ())))),
        prompt=digest(prompt) if row.prompt else 0,
        answer=digest(answer),
        rejected=digest(normal(row.rejected_answer)) if row.rejected_answer else 0,
        shape=digest(shape_of(row.raw)),
        group=0 if own is None else digest(own),
        exact=digest(f"{row.prompt.strip()}\0{row.answer.strip()}") if label else 0,
    )


def _label(row: Row, kind: RowKind | None) -> int:
    """DESIRABLE or UNDESIRABLE for a row that is labelled true or false (`veneer.data.forms.labels`), 0 for others. A
    column of that name is not a label if rows are read as those of an objective without labels."""
    if kind is not None:
        return 0 if row.desirable is None else DESIRABLE if row.desirable else UNDESIRABLE
    raw = row.raw if row.renamed is None else row.renamed
    given = [raw[name] for name in LABEL_KEYS if raw.get(name) is not None] if isinstance(raw, dict) else []
    desirable = read_label(given[0]) if len(given) == 1 else None
    return 0 if desirable is None else DESIRABLE if desirable else UNDESIRABLE


def _group(raw: Any, column: str | None) -> str | None:
    """The value by which a row belongs to others; None if it has none."""
    if not isinstance(raw, dict):
        return None
    given = (group_of(raw.get(name)) for name in (GROUP_COLUMNS if column is None else (column,)))
    return next((value for value in given if value is not None), None)


def normal(text: str) -> str:
    """A text without what does not change its meaning: case, and the form of white space."""
    return " ".join(text.casefold().split())


def digest(text: str) -> int:
    """64 bits of a text's hash; never 0, which means none."""
    raw = blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(raw, "little") or 1


def shape_of(raw: Any) -> str:
    """The keys of a row and of its messages, as text; a key whose value is null counts as absent."""
    if not isinstance(raw, dict):
        return ""
    inner = {f"{key}[].{name}" for key, turn in raw_turns(raw) for name in turn}
    own = sorted(str(key) for key, value in raw.items() if value is not None)
    return ", ".join(own) + ("; " + ", ".join(sorted(inner)) if inner else "")


@dataclass(frozen=True, slots=True, eq=False)
class Noted:
    """The facts of the rows of a chunk."""

    table: NDArray[np.void]
    """The rows as entries of TABLE_DTYPE, [rows]."""
    bands: Hashes
    """[rows, BANDS]"""
    shingles: Hashes
    """The shingles of all rows, one row after the other."""
    counts: NDArray[np.int64]
    """The number of shingles of each row, [rows]."""
    answers: tuple[str | None, ...]
    """Short answers as they are written; None for others."""


def note(rows: Sequence[Row], side: int, group: str | None, boilerplate: Hashes, kind: RowKind | None = None) -> Noted:
    """The facts of some rows of one side; see `facts_of`."""
    sets = [without(shingles_of(row.record), boilerplate) for row in rows]
    signatures = [bands(hashes) if len(hashes) else np.zeros(BANDS, dtype=np.uint32) for hashes in sets]
    return Noted(
        table=np.array([tuple(facts_of(row, side, group, kind)) for row in rows], dtype=TABLE_DTYPE),
        bands=np.stack(signatures),
        shingles=np.concatenate(sets),
        counts=np.array([len(hashes) for hashes in sets], dtype=np.int64),
        answers=tuple(row.answer if 0 < len(row.answer) <= LONGEST_LABEL_CHARS else None for row in rows),
    )


@dataclass(slots=True)
class Gathered:
    """The facts of all rows, in two blocks that grow in place: rows are never held twice."""

    _table: bytearray = field(default_factory=bytearray)
    _bands: bytearray = field(default_factory=bytearray)

    def add(self, noted: Noted) -> None:
        """Add the rows of the next chunk."""
        self._table += noted.table.tobytes()
        self._bands += noted.bands.tobytes()

    def facts(self, files: tuple[str, ...], starts: Sequence[int], spill: Spill, labels: Labels) -> FileFacts:
        """The facts of all rows, which are views of the blocks: afterwards no row can be added."""
        table = np.frombuffer(self._table, dtype=TABLE_DTYPE)
        return FileFacts(
            files=files,
            starts=tuple(starts),
            lines=table["line"],
            side=table["side"],
            usable=table["usable"],
            content=table["content"],
            prompt=table["prompt"],
            answer=table["answer"],
            answer_length=table["answer_length"],
            length=table["length"],
            counted=table["counted"],
            targets=table["targets"],
            shape=table["shape"],
            group=table["group"],
            language=table["language"],
            rejected=table["rejected"],
            rejected_length=table["rejected_length"],
            label=table["label"],
            unanswered=table["unanswered"],
            exact=table["exact"],
            bands=np.frombuffer(self._bands, dtype=np.uint32).reshape(-1, BANDS),
            shingles=spill,
            labels=labels,
        )
