"""What `veneer verify` shows: what is checked now, and the certificate."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from veneer.exports.certificate import Certificate
from veneer.exports.request import VerifyRequest
from veneer.exports.verify import run_verify
from veneer.screens.console import console
from veneer.screens.export import parity_table


def verify_visibly(request: VerifyRequest, *, as_json: bool) -> Certificate:
    """Check an export under a spinner; prints the certificate unless the caller wants JSON."""
    with console().status(escape(f"checking {request.export}")) as status:
        certificate = run_verify(request, progress=lambda what: status.update(escape(what)))
    if not as_json:
        shown = Console()
        shown.print(parity_table(certificate))
        for note in certificate.notes:
            shown.print(Text(note), soft_wrap=True)
        if certificate.passed:
            unchanged = f"{request.export} is what it was made from: {len(certificate.files)} files unchanged"
            shown.print(Text(unchanged), soft_wrap=True)
    return certificate
