"""What `veneer verify` shows: its progress, and the certificate."""

from __future__ import annotations

from veneer.exports.certificate import Certificate
from veneer.exports.request import VerifyRequest
from veneer.exports.verify import run_verify
from veneer.screens.console import output_console, say, show_table
from veneer.screens.export import parity_table
from veneer.screens.subscribers import subscriber_of
from veneer.text.counting import count_of


def verify_visibly(request: VerifyRequest, *, as_json: bool) -> Certificate:
    """Check an export with progress, and print the certificate."""
    with subscriber_of(as_json=as_json) as emit:
        certificate = run_verify(request, emit)
    if not as_json:
        shown = output_console()
        show_table(shown, parity_table(certificate))
        for note in certificate.notes:
            say(shown, note)
        if certificate.passed:
            unchanged = (
                f"{request.export} is what it was made from: {count_of(len(certificate.files), 'file')} unchanged"
            )
            say(shown, unchanged)
    return certificate
