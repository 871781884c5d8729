"""The command `quantize`: quantises a model once."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import examples, model_option
from veneer.commands.parameter_types import PATH
from veneer.commands.settings import with_options
from veneer.errors import ConfigError


@click.command(
    epilog=examples(
        "quantize --model MODEL --output model-nf4",
        "quantize --model MODEL --output model-int8 --set quant.scheme=int8",
    )
)
@model_option
@click.option("--output", required=True, type=PATH, help="The directory to create.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of the section quant, for example quant.scheme=int8.",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "bfloat16", "float16", "float32"]),
    default="auto",
    show_default=True,
    help="The number format of the weights that are not quantised; auto uses that of the model's files, or bfloat16.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def quantize(model: str, output: Path, assignments: tuple[str, ...], dtype: str, as_json: bool) -> None:
    """Quantise a model once, into a directory of its own.

    veneer and transformers can load the directory without quantising again.
    """
    from veneer.config import QuantSection
    from veneer.screens.quantize import quantize_visibly

    values = with_options({}, {}, assignments)
    others = sorted(values.keys() - {"quant"})
    if others:
        raise ConfigError(f"--set accepts only settings of the section quant here, not {', '.join(others)}")
    quant = QuantSection.model_validate(values.get("quant", {}), context="the command line")
    quantize_visibly(model, output, quant, dtype, as_json=as_json)
