"""The command `export`: writes an adapter in the formats of other programs."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import (
    base_model_option,
    base_option,
    compute_of,
    device_option,
    examples,
    gap_option,
    limit_option,
    method_of,
    other_base_of,
    other_base_option,
    rows_option,
)
from veneer.commands.parameter_types import PATH


@click.command(
    epilog=examples(
        "export --adapter my-adapter --output my-model",
        "export --adapter my-adapter --output my-gguf --to gguf\n--quant q4_k_m",
    )
)
@base_model_option
@click.option("--adapter", required=True, type=PATH, help="The folder of the adapter.")
@click.option(
    "--to",
    type=click.Choice(["peft", "merged", "merged-4bit", "gguf", "gguf-adapter"]),
    default="merged",
    show_default=True,
    help="What to write: an adapter for PEFT, the adapter merged into its base model, or files for llama.cpp.",
)
@click.option("--output", required=True, type=PATH, help="The folder to make.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="The number format of a merged model's weights; auto uses that of the base's files (bfloat16 if they are "
    "quantised).",
)
@click.option(
    "--quant",
    help="The number format in a GGUF model (f32, f16, bf16, q8_0, q4_0, q4_k_m) or adapter (f32, f16, bf16, q8_0).",
)
@rows_option
@limit_option
@gap_option
@base_option
@other_base_option
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the record of the export as JSON.")
def export(
    model: str | None,
    adapter: Path,
    to: str,
    output: Path,
    dtype: str,
    quant: str | None,
    data: str | None,
    limit: int | None,
    gap: float | None,
    method: str | None,
    allow_other_base: bool,
    device: str,
    as_json: bool,
) -> None:
    """Write an adapter as files that other programs load.

    The export is verified: the files are read back and compared with the adapter on its base model. If they differ by
    more than their format explains, nothing is left at --output, and the exit code is 1.
    """
    from veneer.exports.request import ExportRequest, StoredDtype, Target
    from veneer.screens.export import export_visibly

    request = ExportRequest(
        adapter=adapter,
        output=output,
        model=model,
        to=Target(to),
        dtype=StoredDtype(dtype),
        quant=quant,
        data=data,
        limit=limit,
        gap=gap,
        method=method_of(method),
        compute=compute_of(device, "auto"),
        other_base=other_base_of(allow_other_base),
    )
    export_visibly(request, as_json=as_json)
