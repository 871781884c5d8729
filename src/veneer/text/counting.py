"""Numbers of things, as sentences write them."""

from __future__ import annotations


def count_of(count: int, thing: str) -> str:
    """A number of things, by the name of one: `1 row`, `1,200 rows`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
