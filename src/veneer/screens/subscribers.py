"""Whoever is told what a verb does: the terminal, and with `--json` standard output, which gets the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from veneer.events import Subscriber
from veneer.processes.ranks import Ranks
from veneer.screens.console import console
from veneer.screens.events import EventScreen
from veneer.screens.json_output import print_result


@contextmanager
def subscribers_of(*, as_json: bool) -> Iterator[list[Subscriber]]:
    """Within the block, yields the subscribers of a verb whose result is printed in the end.

    Args:
        as_json: whether the result is printed as JSON.
    """
    with EventScreen(console()) as screen:
        yield [screen, print_result] if as_json else [screen]


@contextmanager
def told_by_rank_0(ranks: Ranks, *, as_json: bool) -> Iterator[list[Subscriber]]:
    """Within the block, yields the subscribers of a verb that several processes share: those of `subscribers_of` in
    rank 0, and none in another one."""
    if not ranks.first:
        yield []
        return
    with subscribers_of(as_json=as_json) as subscribers:
        yield subscribers
