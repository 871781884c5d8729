"""The command `verify`: checks an export again."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import (
    base_model_option,
    compute_of,
    device_option,
    examples,
    gap_option,
    limit_option,
    rows_option,
)
from veneer.commands.parameter_types import PATH


@click.command(epilog=examples("verify my-model"))
@click.argument("export", type=PATH)
@click.option(
    "--adapter",
    type=PATH,
    help="The folder of the adapter. [default: where it was at the export]",
)
@base_model_option
@rows_option
@limit_option
@gap_option
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the certificate as JSON.")
def verify(
    export: Path,
    adapter: Path | None,
    model: str | None,
    data: str | None,
    limit: int | None,
    gap: float | None,
    device: str,
    as_json: bool,
) -> None:
    """Check an export again.

    EXPORT is the folder that `veneer export` made. Its files, tensors and answers are compared with those of the
    adapter and base model it was made from. The exit code is 1 if something differs.
    """
    from veneer.exports.request import VerifyRequest
    from veneer.screens.verify import verify_visibly

    request = VerifyRequest(
        export=export,
        adapter=adapter,
        model=model,
        data=data,
        limit=limit,
        gap=gap,
        compute=compute_of(device, "auto"),
    )
    certificate = verify_visibly(request, as_json=as_json)
    certificate.refuse(f"{export} is not what it was made from")
