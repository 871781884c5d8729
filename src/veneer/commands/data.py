"""The command `data`: every row of a data file is checked before it trains."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from veneer.commands.options import columns_of, columns_option, examples
from veneer.commands.parameter_types import COUNT, FEW, MODEL, PATH, ROWS, Count
from veneer.enums import ObjectiveName
from veneer.text.strict_json import to_text

_MENDING = frozenset({"file", "fix", "as_json"})
"""The parameters that mean something where a file is mended."""


@click.command(
    epilog=examples(
        "data rows.jsonl",
        "data rows.jsonl --model MODEL --html page.html --show 3",
        "data prompts.jsonl --objective grpo --model MODEL",
    )
)
@click.argument("file", type=ROWS)
@click.option(
    "--model", type=MODEL, help="The model whose tokenizer and chat template the rows are checked with. [default: none]"
)
@click.option(
    "--objective",
    type=click.Choice([objective.value for objective in ObjectiveName]),
    help="What the rows are to train: they are read as a run of that objective reads them. By default each row is "
    "read as what its keys say, a pair or an answer.",
)
@click.option(
    "--eval-data", type=ROWS, help="The evaluation rows. They are checked too, and for what training has seen of them."
)
@click.option("--max-length", type=Count(2), default=2048, show_default=True, help="The longest row, in tokens.")
@columns_option
@click.option("--group", metavar="COLUMN", help="A column whose values must not be on both sides of the split.")
@click.option("--ignore", multiple=True, metavar="RULE", help="A rule that is not reported. It may be given again.")
@click.option("--show", type=COUNT, metavar="N", help="Print the first N rows as tokens, with what trains marked.")
@click.option("--html", type=PATH, help="A page to write: every finding, and a browser of rows.")
@click.option("--fix", type=PATH, metavar="NEW", help="A mended copy of FILE to write; each change is said.")
@click.option("--label-errors", is_flag=True, help="Show likely label errors, for which the model reads the rows.")
@click.option("--names", metavar="PIPELINE", help="Show names of persons, by a pipeline of spaCy (en_core_web_sm).")
@click.option("--processes", type=FEW, help="The number of processes that check rows. [default: one a core]")
@click.option("--json", "as_json", is_flag=True, help="Print every finding as JSON.")
def data(
    file: str,
    model: str | None,
    objective: str | None,
    eval_data: str | None,
    max_length: int,
    columns: str | None,
    group: str | None,
    ignore: tuple[str, ...],
    show: int | None,
    html: Path | None,
    fix: Path | None,
    label_errors: bool,
    names: str | None,
    processes: int | None,
    as_json: bool,
) -> None:
    """Check every row of a data file.

    The exit code is 1 where an error is found, and 0 with warnings alone. With --objective, rows that a run of it
    would refuse or leave out are errors. With --fix the file is not checked, but mended: encoding, white space, names
    of roles and exact duplicates; the exit code is 1 where rows cannot be read.
    """
    from veneer.data.lint.run import LintOptions
    from veneer.evaluation.lint_request import LintRequest
    from veneer.machine.system import available_cores
    from veneer.screens.data import fix_visibly, lint_visibly

    if fix is not None:
        _refuse_checks(click.get_current_context())
        if fix_visibly(file, fix, as_json=as_json).unreadable:
            raise click.exceptions.Exit(1)
        return
    report = lint_visibly(
        LintRequest(
            data=file,
            model=model,
            eval_data=eval_data,
            max_length=max_length,
            columns=columns_of(columns),
            objective=None if objective is None else ObjectiveName(objective),
            options=LintOptions(ignore=frozenset(ignore), group=group, processes=processes or available_cores()),
            label_errors=label_errors,
            names=names,
        ),
        show=show or 0,
        html=html,
        as_json=as_json,
    )
    if as_json:
        click.echo(to_text(report.to_json(), indent=2, ensure_ascii=False))
    if report.failed:
        raise click.exceptions.Exit(1)


def _refuse_checks(context: click.Context) -> None:
    """Refuse the options of a check where a file is mended, which is not checked."""
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name not in _MENDING
        and context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"--fix mends rows and does not check them, so that {', '.join(given)} would do nothing")
