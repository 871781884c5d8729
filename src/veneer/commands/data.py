"""The command `data`: checks every row of a data file before training."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from veneer.commands.options import columns_option, examples
from veneer.commands.parameter_types import COUNT, FEW, MODEL, PATH, ROWS, Count
from veneer.commands.settings import columns_of
from veneer.enums import ObjectiveName
from veneer.text.strict_json import to_text

_MENDING = frozenset({"file", "fix", "as_json"})
"""The parameters that apply when a file is mended."""


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
    help="Read the rows as a run with that objective does. By default the keys of each row say whether it is a pair "
    "or an answer.",
)
@click.option(
    "--eval-data",
    type=ROWS,
    help="The evaluation rows. They are checked too, and searched for rows that are in the training data.",
)
@click.option("--max-length", type=Count(2), default=2048, show_default=True, help="The longest row, in tokens.")
@columns_option
@click.option(
    "--group", metavar="COLUMN", help="A column whose values must not be in both training and evaluation rows."
)
@click.option(
    "--ignore", multiple=True, metavar="RULE", help="A rule to leave out of the report. May be given several times."
)
@click.option(
    "--show", type=COUNT, metavar="N", help="Print the first N rows as tokens, with the trained tokens marked."
)
@click.option("--html", type=PATH, help="Write an HTML page with every finding and a browser of rows.")
@click.option("--fix", type=PATH, metavar="NEW", help="Write a mended copy of FILE, and report each change.")
@click.option("--label-errors", is_flag=True, help="Show likely label errors; the model reads the rows to find them.")
@click.option("--names", metavar="PIPELINE", help="Show names of persons, found by a spaCy pipeline (en_core_web_sm).")
@click.option("--processes", type=FEW, help="The number of processes that check rows. [default: one per core]")
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

    The exit code is 1 if an error is found, and 0 if there are only warnings. With --objective, rows that such a run
    would refuse or leave out are errors. With --fix the file is not checked but mended: encoding, white space, names of
    roles and exact duplicates. The exit code is then 1 if rows cannot be read.
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
    """Refuse the options of a check when a file is mended: it is not checked then."""
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name not in _MENDING
        and context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"--fix mends rows and does not check them; leave out {', '.join(given)}")
