"""The rows of a run, read and tokenised once and then mapped into memory by every process that sees the file.

Rank 0 reads them before the group of torch.distributed exists, so that a large file of rows causes no time-out of a
collective. A host that does not see rank 0's file system reads the rows itself, once. Every process opens rows that are
kept on the disk (`veneer.data.encoded.token_store`) there.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from veneer.config import DataSection
from veneer.data.encoded.chat import Example
from veneer.data.encoded.token_store import StoredExamples
from veneer.data.forms.prompts import PromptRow
from veneer.data.forms.record import Record
from veneer.data.forms.turns import Message
from veneer.data.micro_batches.mixture import WeightedRows
from veneer.data.rows import Rows, load_rows
from veneer.enums import RowKind
from veneer.events import Subscriber, ignore
from veneer.io.files import atomic_file, scratch_folder
from veneer.io.leftovers import PARTIAL
from veneer.io.tokenizer import Tokenizer
from veneer.processes.group import Group
from veneer.text.strict_json import restored, to_text, with_reasons

FILE = f"{PARTIAL}rows.safetensors"
"""The file of the rows in the folder of the run, until all processes have it. If a killed run has left it, the next run
in the folder deletes it with other unfinished files."""
SCRATCH = "veneer-rows"
"""The end of the name of the folder with the file, on a host that does not see the folder of the run."""
STORED = "stored"
"""The text that replaces a file's name if the rows are kept on the disk anyway."""


def write_rows(path: Path, rows: Rows) -> None:
    """Write the tokens, masks, places, labels, margins and prompts of rows, which every process needs.

    Raises:
        OutputError: the file cannot be written.
    """
    examples = [*rows.train, *rows.eval]
    sources = to_text([[source.rows, source.weight] for source in rows.sources]).encode()
    places = to_text([example.where for example in examples], ensure_ascii=False).encode()
    counts = len(rows.train), rows.together, *rows.further
    lengths = np.array([*counts, *(len(example.tokens) for example in examples)], dtype=np.int64)
    tensors = {
        "lengths": lengths,
        "tokens": np.concatenate([example.tokens for example in examples]),
        "mask": np.concatenate([example.loss_mask for example in examples]),
        "where": np.frombuffer(places, dtype=np.uint8),
        "sources": np.frombuffer(sources, dtype=np.uint8),
        "labels": np.frombuffer(to_text(rows.labels).encode(), dtype=np.uint8),
        "margins": np.frombuffer(to_text(rows.margins).encode(), dtype=np.uint8),
        "prompts": np.frombuffer(to_text(list(map(_as_json, rows.prompts)), default=str).encode(), dtype=np.uint8),
    }
    with atomic_file(path) as part:
        save_file(tensors, part)


def read_rows(path: Path) -> Rows:
    """The rows of a file that `write_rows` wrote; tokens and masks stay in the file, and processes share its pages."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))

    def mapped(name: str, dtype: type[np.generic]) -> np.ndarray[tuple[int], np.dtype[np.generic]]:
        start, end = header[name]["data_offsets"]
        count = (end - start) // np.dtype(dtype).itemsize
        return np.memmap(path, dtype=dtype, mode="c", offset=8 + size + start, shape=(count,))

    trained, together, pieces, eval_pieces, *lengths = mapped("lengths", np.int64).tolist()
    where = json.loads(bytes(mapped("where", np.uint8)).decode())
    ends = np.cumsum(lengths)
    tokens, mask = mapped("tokens", np.int32), mapped("mask", np.bool_)
    examples = [
        Example(tokens[end - length : end], mask[end - length : end], place)  # type: ignore[arg-type]
        for end, length, place in zip(ends, lengths, where, strict=True)
    ]
    sources = json.loads(bytes(mapped("sources", np.uint8)).decode())
    return Rows(
        examples[:trained],
        examples[trained:],
        sources=tuple(WeightedRows(*source) for source in sources),
        together=together,
        labels=tuple(json.loads(bytes(mapped("labels", np.uint8)).decode())),
        margins=tuple(json.loads(bytes(mapped("margins", np.uint8)).decode())),
        prompts=tuple(_prompt(*values) for values in json.loads(bytes(mapped("prompts", np.uint8)).decode())),
        further=(pieces, eval_pieces),
    )


def _as_json(prompt: PromptRow) -> list[Any]:
    """A prompt as JSON values, for `_prompt`. Dates and similar values become texts: the process that has read the rows
    judges the answers, and has the original values."""
    record = prompt.record
    columns = with_reasons({"columns": dict(prompt.columns)})
    return [record.where, record.messages, record.tools, prompt.given, columns, prompt.under]


def _prompt(
    where: str,
    messages: list[Message],
    tools: list[dict[str, Any]] | None,
    given: str | list[Message],
    columns: dict[str, Any],
    under: str,
) -> PromptRow:
    record = Record(where, tuple(messages), None if tools is None else tuple(tools))
    return PromptRow(record, given if isinstance(given, str) else tuple(given), restored(columns)["columns"], under)


@dataclass(slots=True)
class SharedRows:
    """Reads the rows of a run in one of its processes (`veneer.training.prepare.LoadRows`)."""

    group: Group
    output: Path
    """The folder of the run."""
    _written: ExitStack = field(default_factory=ExitStack)
    """Deletes the files of this process."""

    def __call__(
        self, data: DataSection, tokenizer: Tokenizer, emit: Subscriber = ignore, kind: RowKind = RowKind.ANSWERS
    ) -> Rows:
        """See `veneer.data.rows.load_rows`. Only the process that has read the rows knows which were left out."""
        ranks = self.group.ranks
        if not ranks.many:
            return load_rows(data, tokenizer, emit, kind)
        if ranks.first:
            return self._read_for_others(data, tokenizer, emit, kind, "rows", self.output)
        left = self.group.awaited("rows")
        if left == STORED:
            return load_rows(data, tokenizer, emit, kind)
        path = Path(left)
        if path.is_file():
            return read_rows(path)
        here = f"rows on {ranks.host}"
        if ranks.local_rank == 0:
            folder = self._written.enter_context(scratch_folder(Path(gettempdir()), SCRATCH))
            return self._read_for_others(data, tokenizer, emit, kind, here, folder)
        return read_rows(Path(self.group.awaited(here)))

    def _read_for_others(
        self, data: DataSection, tokenizer: Tokenizer, emit: Subscriber, kind: RowKind, key: str, folder: Path
    ) -> Rows:
        rows = load_rows(data, tokenizer, emit, kind)
        if isinstance(rows.train, StoredExamples):
            self.group.publish(key, STORED)
            return rows
        path = folder / FILE
        self._written.callback(path.unlink, missing_ok=True)
        write_rows(path, rows)
        self.group.publish(key, str(path.resolve()))
        return rows

    def remove(self) -> None:
        """Delete the file that this process has written; processes that have mapped it keep its content."""
        self._written.close()
