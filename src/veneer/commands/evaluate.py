"""The command `evaluate`: scores base and adapter on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from veneer.commands.options import (
    assistant_of,
    base_option,
    columns_option,
    device_option,
    devices_option,
    dtype_option,
    examples,
    model_option,
    on_option,
)
from veneer.commands.parameter_types import COUNT, MANY, PATH, ROWS
from veneer.commands.processes import in_processes
from veneer.commands.settings import columns_of
from veneer.errors import ConfigError

if TYPE_CHECKING:
    from veneer.evaluation.report import Report
    from veneer.processes.ranks import Ranks

FOR_SCORES = ("model", "adapters", "data", "columns", "method", "limit", "device", "dtype", "as_json")
"""The options that apply to the adapter of a reward model, which scores pairs and gives no answers."""


@click.command(
    epilog=examples(
        "evaluate --model MODEL --data test.jsonl",
        "evaluate --model MODEL --adapter my-adapter\n--data test.jsonl --limit 200",
        "evaluate --model MODEL --adapter my-adapter\n--data test.jsonl --suite arithmetic --gate gate.yaml",
    )
)
@model_option
@click.option(
    "--adapter",
    "adapters",
    type=PATH,
    multiple=True,
    help="The folder of an adapter to put on the model. May be given several times, for adapters that differ in the "
    "seed of their training.",
)
@click.option("--data", type=ROWS, required=True, help="The rows to score: a file of JSONL, JSON, CSV or Parquet.")
@columns_option
@base_option
@click.option("--limit", type=COUNT, help="The number of rows to score, from the start of the file. [default: all]")
@click.option("--max-new-tokens", type=COUNT, help="The longest answer, in tokens. [default: by the rows]")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="A metric: exact, loss, perplexity, json, classification, choice, number, rouge-l, bleu, chrf, "
    "FILE.py:FUNCTION or 'command:PROGRAM'. The first one is the primary one. [default: by the rows]",
)
@click.option(
    "--cluster",
    metavar="COLUMN",
    help="A column whose equal values mark rows that belong together (for example, to one source).",
)
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME",
    help="A test of what the model may have forgotten: arithmetic, copying, json, constraints, tools, a file of "
    "rows, kl:FILE, or lm-eval:TASK.",
)
@click.option(
    "--suite-items",
    type=MANY,
    help="The number of items of each generated suite or lm-eval task. [default: by the gate, or 400; all of a task]",
)
@click.option(
    "--gate",
    type=PATH,
    help="A YAML file of margins. Exit code: 0 if all margins are kept, 1 if one is not, 3 if there are too few rows "
    "to tell.",
)
@click.option(
    "--judge",
    type=PATH,
    help="A YAML file that names a judge: a model that compares the answers of base and adapter. [default: no judge]",
)
@click.option("--html", type=PATH, help="Write an HTML page with all results.")
@device_option
@devices_option
@on_option
@dtype_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def evaluate(
    model: str,
    adapters: tuple[Path, ...],
    data: str,
    columns: str | None,
    method: str | None,
    limit: int | None,
    max_new_tokens: int | None,
    metrics: tuple[str, ...],
    cluster: str | None,
    suites: tuple[str, ...],
    suite_items: int | None,
    gate: Path | None,
    judge: Path | None,
    html: Path | None,
    device: str,
    devices: int | None,
    on: str | None,
    dtype: str,
    as_json: bool,
) -> None:
    """Score a model and an adapter on the same rows.

    A row is scored by the loss of its answer, and by the answer that greedy generation gives. The interval of a
    difference says how sure it is (docs/evaluation.md). If the adapter is a reward model's, the rows are pairs, and the
    score is how often the chosen answer gets the higher reward.
    """
    ranks = in_processes(devices, on=on)
    from veneer.evaluation.request import EvaluationRequest
    from veneer.reward_model import is_reward_adapter
    from veneer.screens.evaluate import evaluate_visibly
    from veneer.screens.rewards import evaluate_pairs_visibly

    assistant = assistant_of(model, adapters[0] if adapters else None, method, device, dtype)
    if adapters and is_reward_adapter(adapters[0]):
        _refuse_for_scores(click.get_current_context(), adapters, ranks)
        evaluate_pairs_visibly(assistant, data, limit, columns_of(columns), as_json=as_json)
        return
    request = EvaluationRequest(
        assistant=assistant,
        data=data,
        limit=limit,
        max_new_tokens=max_new_tokens,
        metrics=metrics,
        cluster=cluster,
        more_adapters=adapters[1:],
        suites=suites,
        suite_items=suite_items,
        gate=gate,
        judge=judge,
        html=html,
        columns=columns_of(columns),
    )
    report = evaluate_visibly(request, ranks, as_json=as_json, on=on)
    if report is not None:
        raise click.exceptions.Exit(exit_code(report))


def exit_code(report: Report) -> int:
    """The exit code of a report: that of its gate, or 2 if the gate holds and the judge failed."""
    code = 0 if report.gate is None else report.gate.verdict.exit_code
    return code or (2 if report.judge_error is not None else 0)


def _refuse_for_scores(context: click.Context, adapters: Sequence[Path], ranks: Ranks) -> None:
    """Refuse a second adapter, several processes, and every option but those in FOR_SCORES.

    Raises:
        ConfigError: these are given; the error names all of them.
    """
    given = ["another --adapter"] if len(adapters) > 1 else []
    given += [
        option.opts[0]
        for option in context.command.params
        if option.name not in FOR_SCORES
        and context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
    ]
    if ranks.many and "--devices" not in given:
        given.append(f"the launcher of {ranks.world} processes")  # each would score all pairs and print
    if given:
        raise ConfigError(
            f"the adapter is a reward model's, which scores pairs and does not answer; leave out {', '.join(given)}"
        )
