"""Commands that hand a model on: `export`, and `verify` what was exported."""

from __future__ import annotations

import json
from pathlib import Path

import click

from veneer.commands.shared import base_option, compute_of, device_option, method_of

rows_option = click.option("--data", help="Rows to compare and measure on; by default the run's evaluation rows.")
limit_option = click.option("--limit", type=click.IntRange(min=1), help="Take only the first rows (to compare on: 20).")
gap_option = click.option(
    "--gap",
    type=click.FloatRange(min=0.0, min_open=True),
    help="Largest log-probability gap allowed, in nats; by default the format's.",
)
base_model_option = click.option("--model", help="The base; by default as the adapter names it.")


@click.command()
@base_model_option
@click.option("--adapter", required=True, type=click.Path(path_type=Path), help="Folder of an adapter.")
@click.option(
    "--to",
    type=click.Choice(["peft", "merged", "merged-4bit", "gguf", "gguf-adapter"]),
    default="merged",
    show_default=True,
    help="Kind of export.",
)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Of the weights; auto: as the base is stored.",
)
@click.option(
    "--quant", help="Of a GGUF file: f32, f16, bf16, q8_0, q4_0 or q4_k_m; an adapter: f32, f16, bf16 or q8_0."
)
@rows_option
@limit_option
@gap_option
@base_option
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
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
    device: str,
    as_json: bool,
) -> None:
    """Write an adapter as something that other programs load, and prove that it is the same model.

    What was written is read back and compared with the live adapter; if it differs by more than its format explains,
    nothing is left under the name of --output and the exit code is 1.
    """
    from veneer.exports.job import StoredDtype
    from veneer.exports.run import Target
    from veneer.recipes import export_visibly

    record = export_visibly(
        model,
        adapter,
        output,
        to=Target(to),
        dtype=StoredDtype(dtype),
        quant=quant,
        data=data,
        limit=limit,
        gap=gap,
        method=method_of(method),
        compute=compute_of(device, "auto"),
        as_json=as_json,
    )
    if as_json:
        click.echo(json.dumps(record.to_json(), indent=2))


@click.command()
@click.argument("export", type=click.Path(path_type=Path))
@click.option("--adapter", type=click.Path(path_type=Path), help="Its adapter; by default where it was then.")
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
    """Check an export again: its files, tensors and answers as they are now; exit code 1 if they differ."""
    from veneer.recipes import verify_visibly

    certificate = verify_visibly(
        export,
        adapter=adapter,
        model=model,
        data=data,
        limit=limit,
        gap=gap,
        compute=compute_of(device, "auto"),
        as_json=as_json,
    )
    if as_json:
        click.echo(json.dumps(certificate.to_json(), indent=2))
    certificate.refuse(f"{export} is not what it was made from")
