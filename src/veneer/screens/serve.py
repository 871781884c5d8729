"""What `veneer serve` shows: the progress of loading, and the address that accepts requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from veneer.screens.console import console, say
from veneer.screens.events import EventScreen
from veneer.serving.request import ServeRequest, Serving
from veneer.serving.run import require_packages, serve_request
from veneer.text.counting import count_of
from veneer.text.strict_json import to_text

if TYPE_CHECKING:
    from veneer.serving.selfcheck.certificate import IsolationCertificate

NAMED = 5
"""The number of adapters that are named; there may be a thousand."""


def serve_visibly(request: ServeRequest, *, as_json: bool) -> None:
    """Serve until the program is asked to stop.

    Args:
        request: the server to start.
        as_json: whether the address and the models are printed as a line of JSON once requests are accepted.
    """
    screen = console()

    def started(serving: Serving) -> None:
        if as_json:
            click.echo(to_text({"url": serving.url, "models": list(serving.models)}))
        say(screen, summary(serving, with_key=request.key_file is not None))

    with EventScreen(screen) as bar:
        serve_request(request, bar, on_start=started)


def selfcheck_visibly(request: ServeRequest, questions: int, path: Path, *, as_json: bool) -> IsolationCertificate:
    """Check whether requests affect each other's answers, write the certificate, and print it.

    Args:
        request: the server to check.
        questions: the number of questions to ask.
        path: the path of the certificate.
        as_json: whether the certificate is printed as JSON instead of text.

    Raises:
        OutputError: the certificate cannot be written, or would replace another file.
        VeneerError: the server cannot be checked.
    """
    require_packages()
    from veneer.serving.selfcheck.certificate import prove_certificate
    from veneer.serving.selfcheck.run import selfcheck

    prove_certificate(path)
    with EventScreen(console()) as bar:
        certificate = selfcheck(request, bar, questions=questions)
    certificate.write(path)
    click.echo(to_text(certificate.content()) if as_json else f"{certificate.summary()}\nThe certificate is in {path}.")
    return certificate


def summary(serving: Serving, *, with_key: bool) -> str:
    """The address that accepts requests, and the models that answer."""
    base, *adapters = serving.models
    named = ", ".join(adapters[:NAMED]) + (f" and {len(adapters) - NAMED:,} more" if len(adapters) > NAMED else "")
    found = f" with {count_of(len(adapters), 'adapter')}: {named}" if adapters else " without adapters"
    return (
        f"{base}{found}\nOpenAI's interface: {serving.url}/v1, {'with a key' if with_key else 'without a key'}; "
        "Ctrl-C stops"
    )
