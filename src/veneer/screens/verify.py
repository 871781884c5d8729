"""What `veneer verify` shows: what is checked now, and the certificate."""

from __future__ import annotations

from rich.console import Console

from veneer.exports.certificate import Certificate
from veneer.exports.request import VerifyRequest
from veneer.exports.verify import run_verify
from veneer.screens.console import console, say, show_table
from veneer.screens.events import EventScreen
from veneer.screens.export import parity_table
from veneer.screens.json_output import print_result


def verify_visibly(request: VerifyRequest, *, as_json: bool) -> Certificate:
    """Check an export, saying what is done now, and print the certificate."""
    with EventScreen(console()) as screen:
        certificate = run_verify(request, subscribers=[screen, print_result] if as_json else [screen])
    if not as_json:
        shown = Console()
        show_table(shown, parity_table(certificate))
        for note in certificate.notes:
            say(shown, note)
        if certificate.passed:
            unchanged = f"{request.export} is what it was made from: {len(certificate.files)} files unchanged"
            say(shown, unchanged)
    return certificate
