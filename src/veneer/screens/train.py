"""What `veneer train` shows: the run's events, in the terminal or as lines of JSON."""

from __future__ import annotations

import sys
from typing import IO, cast

from veneer.config import RunConfig
from veneer.enums import Method
from veneer.processes.ranks import ONE_RANK, Ranks
from veneer.run_folder import RunFolder
from veneer.screens.console import console, output_console, say
from veneer.screens.events import EventScreen
from veneer.screens.json_output import print_event, while_read
from veneer.screens.streams import LossyStream
from veneer.tracked_run import train_tracked
from veneer.training.session import RunResult


def train_visibly(
    config: RunConfig, ranks: Ranks = ONE_RANK, *, resume: bool = False, as_json: bool = False
) -> RunResult:
    """Train with a progress bar, or with every event as a line of JSON on standard output; rank 0 shows it."""
    if not ranks.first:
        return train_tracked(config, ranks, resume=resume)
    if as_json:
        return train_tracked(config, ranks, resume=resume, emit=while_read(print_event))
    with EventScreen(console()) as screen:
        return train_tracked(config, ranks, resume=resume, emit=screen)


def show_result(config: RunConfig, result: RunResult) -> None:
    """Say where the result is. The result is the folder: whether this can be written does not matter to it."""
    shown = output_console(cast(IO[str], LossyStream(lambda: sys.stdout)))
    say(shown, f"{'model' if config.method is Method.FULL else 'adapter'}: {result.output}")
    if result.best is not None:
        progress, metric = result.progress, config.train.best_metric
        by = f"evaluation loss ({progress.best_loss:.4f})"
        if progress.best_value is not None:
            by = f"{metric} ({progress.best_value:.4f})"
        say(shown, f"best by {by}: {result.best}")
    report = RunFolder(result.output).report_file
    if report.is_file():
        say(shown, f"report: {report}")
