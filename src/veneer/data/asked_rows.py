"""A row of a data file that is to be answered: under veneer's names, with an answer added if it has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veneer.data.forms.formats import given_keys
from veneer.enums import Column

PLACEHOLDER_ANSWER = {"role": "assistant", "content": "?"}
ASKING_SPEAKERS = ("user", "human", "tool", "function", "observation")
"""The speakers that may come last before an assistant, in the spellings of messages and of ShareGPT."""


def asked_row(row: Any, columns: Mapping[Column, str]) -> dict[str, Any]:
    """A row under veneer's names, with a placeholder for an answer that is still to come; the placeholder is not read.

    Args:
        row: the row as the file has it.
        columns: maps veneer's name of a column or key to the file's name, if they differ.

    Raises:
        BadRow: the row is not an object, or has none of the named columns.
    """
    given = given_keys(row, columns)
    for key, answer in (("messages", PLACEHOLDER_ANSWER), ("conversations", {"from": "gpt", "value": "?"})):
        found = given.get(key)
        if isinstance(found, list) and found and isinstance(found[-1], dict):
            last = found[-1].get("role", found[-1].get("from"))
            return {**given, key: [*found, answer]} if last in ASKING_SPEAKERS else given
    for asked, answered in (("prompt", "completion"), ("instruction", "output")):
        if asked in given and answered not in given:
            return {**given, answered: [PLACEHOLDER_ANSWER] if isinstance(given[asked], list) else "?"}
    return given
