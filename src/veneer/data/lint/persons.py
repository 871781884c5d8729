"""Names of persons in rows, found by a spaCy pipeline that the user has installed.

The user decides which pipeline knows the names of the rows' language and domain. spaCy lists its pipelines at
https://spacy.io/models, and users can train their own. The entities with the labels PERSON and PER count as names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from veneer.data.forms.record import Record
from veneer.data.kind_rows import numbered_rows
from veneer.data.lint.checks.by_model import PERSON_NAME
from veneer.data.lint.rules import Finding
from veneer.data.lint.run import PassResult, RowPass
from veneer.enums import Column, RowKind
from veneer.errors import ConfigError
from veneer.events import Stage, Subscriber

PERSON_LABELS = frozenset({"PERSON", "PER"})
"""The labels of persons' names in pipelines: those of OntoNotes and of WikiNER."""
SHOWN_NAMES = 3
"""The number of names that a finding shows."""
MOST_SEARCHED_CHARS = 100_000
"""The characters of a row that are searched; a pipeline needs about a gigabyte of memory for each million."""


def person_pass(pipeline: str, file: Path | str, columns: Mapping[Column, str], kind: RowKind | None = None) -> RowPass:
    """The pass of `veneer.data.lint.run.lint` that searches for names of persons.

    Args:
        pipeline: the name of an installed spaCy pipeline, or a folder with one.
        file: the rows: a file, a pattern or a dataset.
        columns: maps veneer's name of a column or key to the file's name, if they differ.
        kind: the kind as which the rows are read; None derives it from the keys of each row, a pair or an answer.

    Raises:
        ConfigError: spaCy is not installed, there is no such pipeline, or it does not mark persons.
    """
    known = _open(pipeline)

    def found(emit: Subscriber) -> Iterator[tuple[int, Finding]]:
        with Stage(emit, "looking for names of persons", unit="rows") as stage:
            rows = numbered_rows(file, columns, kind)
            texts = ((_said(row.whole)[:MOST_SEARCHED_CHARS], number) for number, row in rows)
            for document, number in known.pipe(texts, as_tuples=True, batch_size=64):
                names = list(dict.fromkeys(str(entity) for entity in document.ents if entity.label_ in PERSON_LABELS))
                if names:
                    yield number, PERSON_NAME.found(_shown(names))
                stage.advance()

    return lambda emit: PassResult(found(emit))


def _open(pipeline: str) -> Any:
    try:
        import spacy
    except ImportError as error:
        raise ConfigError("--names needs spaCy with a pipeline; pip install 'veneer[names]'") from error
    try:
        known = spacy.load(pipeline)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--names {pipeline}: spaCy has no such pipeline installed: {error}") from error
    labels = {label for name in known.pipe_names for label in known.pipe_labels.get(name, ())}
    if not labels & PERSON_LABELS:
        found = ", ".join(sorted(labels)) or "nothing"
        raise ConfigError(f"--names {pipeline}: this pipeline does not mark persons (PERSON, PER); it marks {found}")
    return known


def _said(record: Record) -> str:
    if record.text is not None:
        return record.text
    return "\n".join(str(turn.get("content") or "") for turn in record.messages)


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(map(repr, names[:SHOWN_NAMES])) + more
