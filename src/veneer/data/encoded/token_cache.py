"""Encoded rows that are kept on disk: found again by their inputs, and made if they are not there.

A cache is a folder (`veneer.data.encoded.token_store`) whose name is a digest of everything that determines its tokens:
the content of the files of rows, the tokenizer with its chat template, the settings of the section `data` for single
rows, and the versions of the encoding code. So a changed file has another cache, and the old one is never read. A
damaged cache is detected by the digests of its own files and made again.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from veneer.config import DataSection
from veneer.data.encoded.chat import Encoder
from veneer.data.encoded.encoding import EncodedRow, Fate, encode_each, encoder_of, nothing_left, refuse_problems
from veneer.data.encoded.encoding_pool import EncodingJob, encode_in_processes
from veneer.data.encoded.token_store import FORMAT_VERSION, StoreWriter, TokenStore
from veneer.data.files.readers import count_lines
from veneer.data.forms.record import Record
from veneer.data.kind_rows import RowReader
from veneer.data.lint.audit import RowAudit
from veneer.data.problems import RowProblem
from veneer.enums import RowKind
from veneer.errors import DataError, OutputError
from veneer.events import Level, Note, Stage, Subscriber
from veneer.io.digests import file_digest
from veneer.io.files import atomic_folder, make_output_folder, remove_folder
from veneer.io.leftovers import remove_dead
from veneer.io.places import missing, place_named
from veneer.io.tokenizer import Tokenizer
from veneer.machine.system import available_cores
from veneer.text.strict_json import to_text

ENCODING_PACKAGES = ("veneer", "tokenizers", "jinja2")
"""The packages whose version can affect a token."""
CACHE_REMEDY = "name another folder by data.cache_dir, or keep no tokens (data.cache: never)"
"""The remedy for a cache that cannot be written: the output folder has nothing to do with it."""
ONE_PROCESS_BYTES = 20_000_000
"""The bytes of rows up to which one process encodes them: starting others takes about a second."""
MOST_PROCESSES = 16
"""The most processes that encode: the process that reads and writes cannot feed more."""


def cache_folder(data: DataSection) -> Path:
    """The folder in which caches are kept.

    Raises:
        OutputError: its place cannot be determined.
    """
    return place_named(data.cache_dir or "~/.cache/veneer/tokens", OutputError)


def cached_tokens(
    files: Sequence[Path],
    data: DataSection,
    tokenizer: Tokenizer,
    what: str,
    emit: Subscriber,
    kind: RowKind = RowKind.ANSWERS,
) -> TokenStore:
    """The encoded rows of some files, from the cache, or encoded now and written to the cache.

    Args:
        files: the files, in order.
        data: the section that says how rows are read and encoded, and where caches are kept.
        tokenizer: encodes the rows.
        what: the kind of rows in sentences: "training" or "evaluation".
        emit: receives the progress and the findings.
        kind: the kind as which rows are read, ANSWERS or TEXTS.

    Raises:
        DataError: a file or some of its rows cannot be used, or nothing is left to train or evaluate on.
        OutputError: the cache cannot be written.
    """
    names = [str(file) for file in files]
    folder = token_folder(files, data, tokenizer, kind)
    if folder.is_dir():
        try:
            return _opened(folder, names, emit)
        except DataError as error:
            again = f"{folder}: the tokens kept there are damaged ({error}); they are made again"
            emit(Note(message=again, level=Level.WARNING))
            remove_folder(folder)
    make_output_folder(folder.parent, CACHE_REMEDY)
    # All remains are removed, since a killed run is often repeated with other rows or settings, never to use these.
    remove_dead(folder.parent)
    try:
        with atomic_folder(folder, CACHE_REMEDY) as partial:
            _encode(partial, names, data, tokenizer, what, emit, kind)
    except OutputError:
        # Another run may have written it meanwhile, which is equally good.
        if not folder.is_dir():
            raise
    return _opened(folder, names, emit)


def token_folder(files: Sequence[Path], data: DataSection, tokenizer: Tokenizer, kind: RowKind) -> Path:
    """The folder of the encoded rows of some files, whether it exists or not. Arguments as for `cached_tokens`.

    Raises:
        DataError: a file cannot be read.
    """
    return cache_folder(data) / _key(files, data, tokenizer, kind)


def _opened(folder: Path, names: Sequence[str], emit: Subscriber) -> TokenStore:
    store = TokenStore(folder, names)
    emit(Note(message=f"{store.meta.tokens:,} tokens of {store.meta.rows:,} rows are read from {folder}"))
    for note in store.notes():
        emit(Note(message=note))
    return store


def _key(files: Sequence[Path], data: DataSection, tokenizer: Tokenizer, kind: RowKind) -> str:
    for file in files:
        if not file.is_file():
            raise DataError(f"{missing(file)}; check the path of the data file")
    try:
        digests = [(file.suffix.lower(), file_digest(file)) for file in files]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror or error}") from error
    described = {
        "format": FORMAT_VERSION,
        "versions": {name: version(name) for name in ENCODING_PACKAGES},
        "files": digests,
        "tokenizer": tokenizer.digest(),
        "max_length": data.max_length,
        "overlong": data.overlong.value,
        "bad_rows": data.bad_rows.value,
        "checks": sorted(check.value for check in data.checks),
        "columns": sorted((column.value, name) for column, name in data.columns.items()),
    }
    if kind is not RowKind.ANSWERS:
        described["rows"] = kind.value  # with another kind, other rows are refused or left out
    if len(set(files)) < len(files):
        # The names are not in the key, but their equality is: the rows and notes of one file have the same name.
        described["named"] = [files.index(file) for file in files]
    if tokenizer.template_date is not None:
        described["template_date"] = tokenizer.template_date.isoformat()
    if data.split.column is not None:
        described["split"] = data.split.column  # the cache does not note this column as unused
    return hashlib.sha256(to_text(described, sort_keys=True).encode()).hexdigest()[:32]


def _encode(
    folder: Path,
    names: Sequence[str],
    data: DataSection,
    tokenizer: Tokenizer,
    what: str,
    emit: Subscriber,
    kind: RowKind,
) -> None:
    """Encode every row into a store.

    Raises:
        DataError: see `cached_tokens`.
    """
    reader = RowReader(names, data, kind)
    records = (row.records[0] for row in reader)
    encoder, audit = encoder_of(tokenizer, emit), RowAudit(tokenizer, data.checks)
    counts: Counter[Fate] = Counter()
    problems: list[RowProblem] = []
    longest = 0
    doing = f"tokenising {what} rows into {folder.parent}"
    with StoreWriter(folder, names) as writer, Stage(emit, doing, total=count_lines(names), unit="rows") as stage:
        for encoded in _encoded(records, encoder, data, tokenizer, audit, _processes(names), emit):
            writer.add(encoded)
            counts[encoded.fate] += 1
            longest = max(longest, encoded.length)
            if encoded.fate is Fate.REFUSED:
                problems.append(RowProblem(encoded.record.where, encoded.reason))
            stage.advance()
        refuse_problems(problems, writer.rows - len(problems), data.bad_rows, checked=True)
        if not writer.examples:
            left_out = counts[Fate.DROPPED], longest, counts[Fate.UNTRAINED]
            raise nothing_left(what, writer.rows, data.max_length, *left_out)
        notes = [*reader.notes, *encoder.notes(), *audit.notes(what)]
        writer.finish(notes, [*reader.skipped, *problems])


def _processes(names: Sequence[str]) -> int:
    """The number of processes that encode the rows of some files."""
    size = sum(Path(name).stat().st_size for name in names)
    return 1 if size <= ONE_PROCESS_BYTES or sys.platform == "win32" else min(available_cores(), MOST_PROCESSES)


def _encoded(
    records: Iterable[Record],
    encoder: Encoder,
    data: DataSection,
    tokenizer: Tokenizer,
    audit: RowAudit,
    processes: int,
    emit: Subscriber,
) -> Iterator[EncodedRow]:
    """The result of each row, in order, whatever the number of processes."""
    if processes == 1:
        return encode_each(records, encoder, max_length=data.max_length, overlong=data.overlong, audit=audit)
    job = EncodingJob(tokenizer, data.max_length, data.overlong, tuple(data.checks))
    return encode_in_processes(records, job, audit, processes, emit)
