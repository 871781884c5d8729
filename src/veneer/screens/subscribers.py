"""The subscribers of a verb: the terminal shows progress, and with `--json` standard output gets the result."""

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
    """A context that yields the subscriber of a verb whose result is printed at the end.

    Args:
        as_json: whether the result is printed as JSON.
    """
    with EventScreen(console()) as screen:
        yield broadcast([screen, print_result]) if as_json else screen


@contextmanager
def told_by_rank_0(ranks: Ranks, *, as_json: bool) -> Iterator[Subscriber]:
    """A context that yields the subscriber of a verb that several processes share: in rank 0 that of `subscriber_of`,
    in the other ranks one that ignores events."""
    if not ranks.first:
        yield ignore
        return
    with subscriber_of(as_json=as_json) as emit:
        yield emit
