"""The command `combine`: several adapters become one."""

from __future__ import annotations

import json
from pathlib import Path

import click

KINDS = click.Choice(
    [
        *("svd", "linear", "cat", "ties", "ties_svd", "dare_linear", "dare_ties", "dare_linear_svd", "dare_ties_svd"),
        *("magnitude_prune", "magnitude_prune_svd"),
    ]
)


@click.command()
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    required=True,
    metavar="DIR[=WEIGHT]",
    help="An adapter, and its weight (1).",
)
@click.option("--kind", type=KINDS, default="svd", show_default=True, help="How they are added (see docs/design.md).")
@click.option("--density", type=float, help="Share of the elements that takes part, where some are pruned.")
@click.option(
    "--majority", type=click.Choice(["total", "frequency"]), default="total", show_default=True, help="Of TIES."
)
@click.option("--rank", type=click.IntRange(min=1), help="Rank of the result, where it is decomposed.")
@click.option("--seed", default=0, show_default=True, help="Of the elements that DARE drops.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the new adapter.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def combine(
    adapters: tuple[str, ...],
    kind: str,
    density: float | None,
    majority: str,
    rank: int | None,
    seed: int,
    output: Path,
    as_json: bool,
) -> None:
    """Make one adapter of several of the same base, weighted."""
    from dataclasses import asdict

    from veneer.adapters.arithmetic import CombinationType, Majority
    from veneer.adapters.combine import Combination, combine_folders

    folders: dict[Path, float] = {}
    for text in adapters:
        folder, weight = _weighted(text)
        if folder in folders:
            raise click.UsageError(f"--adapter {folder} is given twice; give it once, with the sum of the weights")
        folders[folder] = weight
    how = Combination(kind=CombinationType(kind), density=density, majority=Majority(majority), rank=rank, seed=seed)
    made = combine_folders(folders, how, output)
    if as_json:
        click.echo(json.dumps({"output": str(output), **asdict(made)}, indent=2))
        return
    click.echo(f"adapter: {output} ({made.updates} layers, rank {made.rank})")
    if len(made.bases) > 1:
        click.echo(f"note: the adapters name different bases: {', '.join(made.bases)}", err=True)


def _weighted(text: str) -> tuple[Path, float]:
    folder, equals, weight = text.rpartition("=")
    if not equals or Path(text).is_dir():
        return Path(text), 1.0
    try:
        return Path(folder), float(weight)
    except ValueError as error:
        raise click.UsageError(
            f"--adapter {text!r}: write it as DIR or DIR=WEIGHT, for example my-adapter=0.5"
        ) from error
