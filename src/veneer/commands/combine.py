"""The command `combine`: several adapters become one."""

from __future__ import annotations

import math
import os
from pathlib import Path

import click

from veneer.commands.options import examples, other_base_of, other_base_option
from veneer.commands.parameter_types import PATH, RANK, SEED, Number
from veneer.text.counting import count_of
from veneer.text.strict_json import to_text

KINDS = click.Choice(
    [
        *("svd", "linear", "cat", "ties", "ties_svd", "dare_linear", "dare_ties", "dare_linear_svd", "dare_ties_svd"),
        *("magnitude_prune", "magnitude_prune_svd"),
    ]
)


@click.command(
    epilog=examples(
        "combine --adapter claims=0.7 --adapter letters=0.3 --output both",
        "combine --adapter claims --adapter letters\n--kind dare_ties --density 0.5 --output both",
    )
)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    required=True,
    metavar="DIR[=WEIGHT]",
    help="The folder of an adapter, and its weight in the sum (by default 1).",
)
@click.option(
    "--kind",
    type=KINDS,
    default="svd",
    show_default=True,
    metavar="KIND",
    help=f"How the adapters are added: {', '.join(KINDS.choices)}.",
)
@click.option("--density", type=Number(), help="The share of elements to keep, for the kinds that prune (TIES, DARE).")
@click.option(
    "--majority",
    type=click.Choice(["total", "frequency"]),
    default="total",
    show_default=True,
    help="How TIES elects a sign: by the sum of the values, or by their number.",
)
@click.option("--rank", type=RANK, help="The rank of the new adapter, for the kinds that end in svd.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="The seed of the random draws of DARE.")
@click.option("--output", required=True, type=PATH, help="The folder of the new adapter.")
@other_base_option
@click.option("--json", "as_json", is_flag=True, help="Print a description of the new adapter as JSON.")
def combine(
    adapters: tuple[str, ...],
    kind: str,
    density: float | None,
    majority: str,
    rank: int | None,
    seed: int,
    output: Path,
    allow_other_base: bool,
    as_json: bool,
) -> None:
    """Add several adapters of one base model into one.

    Each adapter has a weight in the sum.
    """
    from dataclasses import asdict

    from veneer.adapters.arithmetic import CombinationType, Majority
    from veneer.adapters.combine import Combination
    from veneer.combination import combine_folders
    from veneer.screens.console import console, say

    folders: dict[Path, float] = {}
    for text in adapters:
        folder, weight = _weighted(text)
        if folder in folders:
            raise click.UsageError(f"--adapter {folder} is given twice; give it once, with the sum of the weights")
        folders[folder] = weight
    how = Combination(kind=CombinationType(kind), density=density, majority=Majority(majority), rank=rank, seed=seed)
    made = combine_folders(folders, how, output, other_base=other_base_of(allow_other_base))
    for warning in made.warnings:
        say(console(), f"warning: {warning}", style="yellow")
    if as_json:
        click.echo(to_text({"output": str(output), **asdict(made)}, indent=2))
        return
    click.echo(f"adapter: {output} ({count_of(made.updates, 'layer')}, rank {made.rank})")
    if len(made.bases) > 1:
        click.echo(f"note: the adapters name different bases: {', '.join(made.bases)}", err=True)


def _weighted(text: str) -> tuple[Path, float]:
    folder, equals, weight = text.rpartition("=")
    whole = PATH.convert(text, None, None)
    if not equals or os.path.isdir(whole):
        return whole, 1.0
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise click.UsageError(f"--adapter {text!r}: write it as DIR or DIR=WEIGHT, for example my-adapter=0.5")
    return PATH.convert(folder, None, None), number
