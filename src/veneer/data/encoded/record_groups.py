"""Records in groups, which are sent to another process together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from veneer.data.forms.record import Record

GROUP_CHARACTERS = 1 << 18
"""The most characters of a group without its last record, so that little memory is needed to send it."""


def record_groups(records: Iterable[Record], rows: int) -> Iterator[list[Record]]:
    """The records in groups of at most `rows` records. A group ends with the record that brings it to GROUP_CHARACTERS
    characters or more."""
    group: list[Record] = []
    size = 0
    for record in records:
        group.append(record)
        size += record.characters
        if len(group) == rows or size >= GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group
