"""Rows of one answer and whether it is desirable, in the forms that such data comes in.

A row is in a form of `veneer.data.formats` (`prompt` and `completion`, `messages`, `conversations`, `instruction` and
`output`) with `label` beside it: true for an answer that is desirable, false for one that is not. LLaMA-Factory's name
of it is `kto_tag`. CSV files have words alone, so that "true", "1" and "1.0" are read as true, and "false", "0" and
"0.0" as false.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from veneer.data.formats import Record, Remarks, given_keys, to_record
from veneer.data.json_values import BadRow
from veneer.enums import Column

NAMES = ("label", "kto_tag")
WORDS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


@dataclass(frozen=True, slots=True)
class Labelled:
    """One row: an answer, and whether it is desirable."""

    record: Record
    desirable: bool


def to_labelled(
    row: Any, where: str, remarks: Remarks | None = None, columns: Mapping[Column, str] | None = None
) -> Labelled:
    """The answer and label of a row; see `veneer.data.formats.to_record` for the arguments.

    Raises:
        BadRow: there is no label, or the rest is no row that could be imitated.
    """
    remarks = Remarks() if remarks is None else remarks
    row = given_keys(row, remarks, columns)
    given = [name for name in NAMES if name in row]
    if "chosen" in row and "rejected" in row:
        raise BadRow(
            "chosen and rejected are a pair, and objective kto takes single answers with a label; write two rows, "
            "{prompt, completion, label: true} and {prompt, completion, label: false}, or take objective dpo"
        )
    if len(given) != 1:
        raise BadRow(f"there must be one label, true or false, under {' or '.join(NAMES)}; there are {len(given)}")
    label = row.pop(given[0])
    desirable = read_label(label)
    if desirable is None:
        raise BadRow(f"{given[0]} is {label!r}; an answer is desirable (true or 1) or it is not (false or 0)")
    return Labelled(to_record(row, where, remarks), desirable)


def read_label(label: Any) -> bool | None:
    """Whether a label says that an answer is desirable; None for a value that is no label."""
    if isinstance(label, str):
        return WORDS.get(label.strip().lower())
    return bool(label) if isinstance(label, bool | int | float) and label in (0, 1) else None
