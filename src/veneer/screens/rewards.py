"""What `veneer evaluate` shows of a reward model: how often it is right about pairs."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from veneer.assistant.request import AssistantRequest
from veneer.enums import Column
from veneer.evaluation.columns import pair_columns
from veneer.reward_model import PairAccuracy, load_reward_model, pair_accuracy
from veneer.run_folder import recorded_run
from veneer.screens.console import new_table, output_console, show_table
from veneer.screens.subscribers import subscriber_of
from veneer.text.counting import count_of


def evaluate_pairs_visibly(
    request: AssistantRequest, data: str, limit: int | None, columns: Mapping[Column, str], *, as_json: bool
) -> PairAccuracy:
    """Score the pairs of a file under a progress bar, and print a table, or the result as JSON."""
    columns = pair_columns(data, columns, recorded_run(request.adapter))
    with subscriber_of(as_json=as_json) as emit:
        model = load_reward_model(request, emit)
        found = pair_accuracy(model, data, limit=limit, columns=columns, subscribers=[emit])
    if not as_json:
        show_table(output_console(), accuracy_table(data, found))
    return found


def accuracy_table(title: str, found: PairAccuracy) -> Table:
    """The table of a reward model on the pairs of a file."""
    table = new_table(f"{title} ({count_of(found.pairs, 'pair')})", "", "value", "95 % interval")
    low, high = found.interval
    table.add_row("accuracy", f"{100 * found.accuracy:.1f} %", f"{100 * low:.1f} to {100 * high:.1f} %")
    table.add_row("mean score of chosen answers", f"{found.chosen:.4f}", "")
    table.add_row("mean score of rejected answers", f"{found.rejected:.4f}", "")
    table.add_row("difference", f"{found.margin:.4f}", "")
    return table
