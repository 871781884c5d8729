"""What `veneer studio` shows: its address, and the link that opens it."""

from __future__ import annotations

from dataclasses import asdict

import click

from veneer.screens.console import console, say
from veneer.studio.request import StudioRequest, StudioRunning
from veneer.studio.run import run_studio
from veneer.text.strict_json import to_text


def studio_visibly(request: StudioRequest, *, as_json: bool) -> None:
    """Serve until the program is asked to stop.

    Args:
        request: the studio to start.
        as_json: whether the address is printed as a line of JSON once requests are accepted.
    """
    screen = console()

    def started(running: StudioRunning) -> None:
        if as_json:
            click.echo(to_text(asdict(running) | {"key_file": str(running.key_file)}))
        say(screen, summary(request, running))

    run_studio(request, on_start=started)


def summary(request: StudioRequest, running: StudioRunning) -> str:
    """The address of the studio, and how to open it."""
    return (
        f"studio over {request.folder}\n"
        f"open once in a browser: {running.link}\n"
        f"programs: {running.url}/v1, with the key in {running.key_file}; Ctrl-C stops"
    )
