"""The command `data`: every row of a data file is checked before it trains."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("file")
@click.option("--model", help="Model whose tokenizer and chat template the rows are checked with; by default none.")
@click.option("--eval-data", help="Evaluation rows: they are checked too, and for what training has seen of them.")
@click.option(
    "--max-length", type=click.IntRange(min=2), default=2048, show_default=True, help="Longest row, in tokens."
)
@click.option("--group", metavar="COLUMN", help="Column whose values must not be on both sides of the split.")
@click.option("--ignore", multiple=True, metavar="RULE", help="A rule that is not reported; may be repeated.")
@click.option("--processes", type=click.IntRange(min=1), help="Processes that check rows; by default one a core.")
@click.option("--json", "as_json", is_flag=True, help="Print every finding as JSON.")
def data(
    file: str,
    model: str | None,
    eval_data: str | None,
    max_length: int,
    group: str | None,
    ignore: tuple[str, ...],
    processes: int | None,
    as_json: bool,
) -> None:
    """Check every row of FILE: the exit code is 1 where an error is found, and 0 with warnings alone."""
    from veneer.screens.data import DataRequest, lint_visibly

    report = lint_visibly(
        DataRequest(
            file=file,
            model=model,
            eval_file=eval_data,
            max_length=max_length,
            group=group,
            ignore=frozenset(ignore),
            processes=processes,
        ),
        as_json=as_json,
    )
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    if report.failed:
        raise click.exceptions.Exit(1)
