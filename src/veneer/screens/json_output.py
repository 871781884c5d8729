"""`--json` as a subscriber: every event as a line of JSON, or the result as one document, on standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import click

from veneer.events import Event, Result, to_json
from veneer.screens.streams import drop_rest
from veneer.text.strict_json import to_text, with_reasons

Told = TypeVar("Told")


def print_event(event: Event) -> None:
    """Print an event as a line of JSON."""
    click.echo(to_text(with_reasons(to_json(event))))


def print_result(event: Event) -> None:
    """Print the result of a verb as one document of JSON, and ignore the other events."""
    if isinstance(event, Result):
        click.echo(to_text(with_reasons(event.values), indent=2))


def while_read(printer: Callable[[Told], None]) -> Callable[[Told], None]:
    """Print events until one cannot be written. A closed terminal, a closed pipe or a full disk must not end a verb
    whose product is a folder or a file."""
    gone = False

    def tell(told: Told) -> None:
        nonlocal gone
        if gone:
            return
        try:
            printer(told)
        except OSError:
            gone = True
            drop_rest(sys.stdout)

    return tell
