"""What `veneer verify` shows: what is checked now, and the certificate."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from veneer.config import ComputeSection
from veneer.exports.certificate import Certificate
from veneer.exports.verify import verify
from veneer.screens.console import console
from veneer.screens.export import parity_table


def verify_visibly(
    folder: Path,
    *,
    adapter: Path | None,
    model: str | None,
    data: str | None,
    limit: int | None,
    gap: float | None,
    compute: ComputeSection,
    as_json: bool,
) -> Certificate:
    """Check an export under a spinner; prints the certificate unless the caller wants JSON."""
    with console().status(escape(f"checking {folder}")) as status:
        certificate = verify(
            folder,
            adapter=adapter,
            model=model,
            data=data,
            limit=limit,
            gap=gap,
            compute=compute,
            progress=lambda what: status.update(escape(what)),
        )
    if not as_json:
        shown = Console()
        shown.print(parity_table(certificate))
        for note in certificate.notes:
            shown.print(Text(note), soft_wrap=True)
        if certificate.passed:
            unchanged = f"{folder} is what it was made from: {len(certificate.files)} files unchanged"
            shown.print(Text(unchanged), soft_wrap=True)
    return certificate
