"""The names of files of rows in messages and reports.

A file is named by its path. Rows that a caller gave in memory may be in a temporary file, which the caller has never
seen and which is gone when the report is read: they are named as the caller knows them, and their third row is
`the given rows:3`.
"""

from __future__ import annotations

from pathlib import Path

GIVEN_ROWS, GIVEN_EVAL_ROWS = "the given rows", "the given evaluation rows"
"""The names of rows that were given in memory."""


def given_file(folder: Path, name: str) -> Path:
    """The file in a temporary folder for rows that were given in memory.

    Args:
        folder: the folder.
        name: the name of the rows, GIVEN_ROWS or GIVEN_EVAL_ROWS.
    """
    return folder / f"{name}.jsonl"


def shown_name(file: Path | str) -> str:
    """The name of a file of rows in messages."""
    name = Path(file).name.removesuffix(".jsonl")
    return name if name in (GIVEN_ROWS, GIVEN_EVAL_ROWS) else str(file)
