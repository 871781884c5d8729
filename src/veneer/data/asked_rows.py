"""Rows of a data file that are asked: each under veneer's names, and with an answer where it has none yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from veneer.data.files.json_values import BadRow
from veneer.data.files.readers import iterate_rows
from veneer.data.forms.formats import Remarks, given_keys
from veneer.enums import Column

ANSWER = {"role": "assistant", "content": "?"}
ASKING = ("user", "human", "tool", "function", "observation")
"""Who may speak last before an assistant, in the spellings of messages and of ShareGPT."""


def asked_rows(path: Path | str, columns: Mapping[Column, str]) -> Iterator[tuple[str, Any]]:
    """Where each row of a file stands, and the row as `asked_row` makes it, or the BadRow that says why there is none.

    Args:
        path: the file.
        columns: veneer's name of a column or key to the file's, where they differ.

    Raises:
        DataError: the file cannot be read (`veneer.data.files.readers.iterate_rows`).
    """
    for where, row in iterate_rows(path, columns=columns):
        if isinstance(row, BadRow):
            yield where, row
            continue
        try:
            asked = asked_row(row, columns)
        except BadRow as problem:
            yield where, problem
        else:
            yield where, asked


def asked_row(row: Any, columns: Mapping[Column, str]) -> dict[str, Any]:
    """A row under veneer's names, with an answer in the place of one that is still to come. Nobody reads it.

    Args:
        row: as the file has it.
        columns: as `asked_rows`.

    Raises:
        BadRow: it is no object, or has none of the named columns.
    """
    given = given_keys(row, Remarks(), columns)
    for key, answer in (("messages", ANSWER), ("conversations", {"from": "gpt", "value": "?"})):
        found = given.get(key)
        if isinstance(found, list) and found and isinstance(found[-1], dict):
            last = found[-1].get("role", found[-1].get("from"))
            return {**given, key: [*found, answer]} if last in ASKING else given
    for asked, answered in (("prompt", "completion"), ("instruction", "output")):
        if asked in given and answered not in given:
            return {**given, answered: [ANSWER] if isinstance(given[asked], list) else "?"}
    return given
