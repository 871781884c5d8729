"""Rows of one answer with the label whether it is desirable, in the usual forms of such data.

A row is in a form of `veneer.data.forms.formats` (`prompt` and `completion`, `messages`, `conversations`, `instruction`
and `output`) with a `label`: true for a desirable answer, false for an undesirable one. LLaMA-Factory's name of the
label is `kto_tag`. CSV files have only words, so "true", "1" and "1.0" are read as true, and "false", "0" and "0.0" as
false.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from veneer.data.files.json_values import BadRow
from veneer.data.forms.formats import MAPPING_SETTING, Remarks, given_keys, to_record, unmapped, yaml_name
from veneer.data.forms.record import Record
from veneer.enums import Column

LABEL = Column.LABEL.value
LABEL_KEYS = (LABEL, "kto_tag")
ANSWER_KEYS = ("messages", "conversations", "completion", "output")
"""Keys with an answer, of which a row has one."""
LABEL_WORDS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


@dataclass(frozen=True, slots=True)
class Labelled:
    """One row: an answer, and whether it is desirable."""

    record: Record
    desirable: bool


def to_labelled(
    row: Any, where: str, remarks: Remarks | None = None, columns: Mapping[Column, str] | None = None
) -> Labelled:
    """The answer and label of a row; see `veneer.data.forms.formats.to_record` for the arguments.

    Raises:
        BadRow: there is no label, or the rest is not a row with an answer.
    """
    remarks = Remarks() if remarks is None else remarks
    row, whole = given_keys(row, columns), row
    given = [name for name in LABEL_KEYS if name in row]
    if "chosen" in row and "rejected" in row:
        raise BadRow(
            "chosen and rejected are a pair, but objective kto needs single answers with a label; write two rows, "
            "{prompt, completion, label: true} and {prompt, completion, label: false}, or use objective dpo"
        )
    if len(given) != 1:
        raise BadRow(f"there must be one label, true or false, under {' or '.join(LABEL_KEYS)}; there are {len(given)}")
    label = row.pop(given[0])
    desirable = read_label(label)
    if desirable is None:
        raise BadRow(f"{given[0]} is {label!r}; an answer is desirable (true or 1) or it is not (false or 0)")
    record = to_record(row, where, remarks)
    remarks.unused.update(unmapped(whole, columns))
    return Labelled(record, desirable)


def refuse_labelled(row: Any, columns: Mapping[Column, str] | None = None) -> None:
    """Refuse a row that would be learned although it can only be a labelled answer.

    Raises:
        BadRow: the row is a labelled answer, or not a row at all.
    """
    given, columns = given_keys(row, columns), columns or {}
    name = certain_label(given)
    if name is None:
        return
    kept = [(one.value, columns.get(one, one.value)) for one in Column if one.value in given and one.value != LABEL]
    mapping = ", ".join(f"{ours}: {yaml_name(theirs)}" for ours, theirs in kept)
    raise BadRow(
        f"{columns.get(Column.LABEL, name)!r} says whether the answer is desirable, and undesirable ones would be "
        "learned like the others; such rows are for objective: kto; to learn all of their answers, remove this key or "
        f"set {MAPPING_SETTING}: {{{mapping}}}"
    )


def certain_label(given: Mapping[str, Any]) -> str | None:
    """The key next to an answer that can only say whether it is desirable: `kto_tag`, or a `label` that is true or
    false. Texts and numbers may be classes.

    Args:
        given: a row under veneer's names, without nulls (`veneer.data.forms.formats.given_keys`).
    """
    found = (name for name in LABEL_KEYS if name in given and (name != LABEL or isinstance(given[name], bool)))
    return next(found, None) if any(key in given for key in ANSWER_KEYS) else None


def read_label(label: Any) -> bool | None:
    """Whether a label says that an answer is desirable; None for a value that is not a label."""
    if isinstance(label, str):
        return LABEL_WORDS.get(label.strip().lower())
    return bool(label) if isinstance(label, bool | int | float) and label in (0, 1) else None
