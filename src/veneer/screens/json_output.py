"""`--json` as a subscriber: every event as a line of JSON, or what was found as one document, on standard output."""

from __future__ import annotations

import sys

import click

from veneer.events import Event, Result, Subscriber, to_json
from veneer.screens.streams import drop_rest
from veneer.strict_json import to_text, with_reasons


def print_event(event: Event) -> None:
    """Print an event as a line of JSON."""
    click.echo(to_text(with_reasons(to_json(event))))


def print_result(event: Event) -> None:
    """Print what a verb found as a document of JSON, and nothing of the other events."""
    if isinstance(event, Result):
        click.echo(to_text(with_reasons(event.values), indent=2))


def while_read(subscriber: Subscriber) -> Subscriber:
    """Pass events on until they cannot be written any more: a closed terminal, a reader that has gone or a full disk
    must not end a training run, whose product is its folder."""
    gone = False

    def tell(event: Event) -> None:
        nonlocal gone
        if gone:
            return
        try:
            subscriber(event)
        except OSError:
            gone = True
            drop_rest(sys.stdout)

    return tell
