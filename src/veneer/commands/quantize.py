"""The command `quantize`: a model is quantised once."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import model_option


@click.command()
@model_option
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Directory to make.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Of quant, e.g. quant.scheme=int8.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "bfloat16", "float16", "float32"]),
    default="auto",
    show_default=True,
    help="Of what stays dense; auto: as the model says.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def quantize(model: str, output: Path, assignments: tuple[str, ...], dtype: str, as_json: bool) -> None:
    """Quantise a model once, into a directory that opens at once here and in transformers."""
    from veneer.config import override, parse
    from veneer.errors import ConfigError
    from veneer.screens.quantize import quantize_visibly

    values = override({}, assignments)
    others = sorted(values.keys() - {"quant"})
    if others:
        raise ConfigError(f"--set takes settings of quant here, not {', '.join(others)}")
    config = parse({"model": model, "output": str(output), "data": {"file": "-"}, **values}, where="the command line")
    quantize_visibly(model, output, config.quant, dtype, as_json=as_json)
