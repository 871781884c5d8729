"""Whoever is told what a verb does: the terminal, and with `--json` standard output, which gets the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from veneer.events import Subscriber, broadcast, ignore
from veneer.processes.ranks import Ranks
from veneer.screens.console import console
from veneer.screens.events import EventScreen
from veneer.screens.json_output import print_result


@contextmanager
def subscriber_of(*, as_json: bool) -> Iterator[Subscriber]:
    """Within the block, yields the subscriber of a verb whose result is printed in the end.

    Args:
        as_json: whether the result is printed as JSON.
    """
    with EventScreen(console()) as screen:
        yield broadcast([screen, print_result]) if as_json else screen


@contextmanager
def told_by_rank_0(ranks: Ranks, *, as_json: bool) -> Iterator[Subscriber]:
    """Within the block, yields the subscriber of a verb that several processes share: that of `subscriber_of` in
    rank 0, and one that nothing is told to in another."""
    if not ranks.first:
        yield ignore
        return
    with subscriber_of(as_json=as_json) as emit:
        yield emit
