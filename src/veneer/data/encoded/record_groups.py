"""Records in groups, which are sent to another process together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from veneer.data.forms.record import Record

GROUP_CHARACTERS = 1 << 18
"""Characters of a group, without its last record: what is sent together stays in little memory."""


def record_groups(records: Iterable[Record], rows: int) -> Iterator[list[Record]]:
    """The records in groups of at most `rows` records. A record with which a group has GROUP_CHARACTERS characters or
    more is its last one."""
    group: list[Record] = []
    size = 0
    for record in records:
        group.append(record)
        size += len(record.text or "") + sum(len(message["content"]) for message in record.messages)
        if len(group) == rows or size >= GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group
