"""`python -m veneer.comparison.worker ORDER`: one run of a comparison, in its own process.

The measured peak memory is then that of the run, and a crash or the system's out-of-memory killer ends one run and not
the comparison. Events go to standard output as lines of JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from veneer.assistant.assistant import Assistant
from veneer.assistant.load import load_assistant
from veneer.assistant.request import AssistantRequest
from veneer.comparison.order import BASE, Order, RunOutcome, read_order, read_outcome, write_choices
from veneer.data.records import read_rows
from veneer.enums import Method, Products
from veneer.errors import Interrupted, VeneerError
from veneer.evaluation.metrics.choose import CHOICE, named_metrics
from veneer.evaluation.rows import choice_losses, prepare, prepare_choices, score_rows
from veneer.evaluation.statistics.compare import measures_of
from veneer.events import Event, RunFailed, RunStarted, to_json
from veneer.io.files import remove_folder
from veneer.processes.ranks import Ranks
from veneer.run_folder import RunFolder
from veneer.runtime.signals import end_by_signals, signal_exit_code
from veneer.text.strict_json import to_text, with_reasons
from veneer.training.run import train


def main(argv: Sequence[str]) -> int:
    """Carry out the order in a file; returns the exit code of the command line."""
    try:
        carry_out(read_order(Path(argv[0])))
    except VeneerError as error:
        _say(RunFailed(run=Path(argv[0]).parent.name, message=str(error)))
        by_signal = signal_exit_code() if isinstance(error, Interrupted) else None
        return error.exit_code if by_signal is None else by_signal
    return 0


def carry_out(order: Order) -> None:
    """Train (or resume a run that was interrupted), score the result from the disk, and write the outcome.

    Raises:
        VeneerError: see `train` and `evaluate`.
    """
    unscored = _trained(order) if read_outcome(order.folder) is None else None
    pairs = read_rows(order.eval_file, order.config.data.columns)
    assistant = _assistant(order)
    records, raw = [record for record, _ in pairs], [row for _, row in pairs]
    rows = prepare(assistant, records, max_new_tokens=order.max_new_tokens, emit=_say, raw=raw)
    if order.choices:
        rows = prepare_choices(assistant, rows, named_metrics([CHOICE]), emit=_say)
        assert rows.choices is not None, "they were named"
        write_choices(order.folder, choice_losses(assistant, rows.choices, emit=_say))
    if unscored is not None:
        scores = score_rows(assistant, rows, emit=_say)
        metrics = {measure.name: measure.total for measure in measures_of(scores)}
        outcome = replace(unscored, metrics=metrics, rows=scores)
        outcome.write(order.folder, [score.answer for score in scores])
    checkpoints = RunFolder(order.folder).checkpoints
    if checkpoints.is_dir():
        remove_folder(checkpoints)


def _trained(order: Order) -> RunOutcome:
    """Train, or resume a run that was interrupted. The outcome has no scores yet."""
    outcome = RunOutcome(method=order.method, seed=order.seed, metrics={}, rows=[])
    if order.method == BASE:
        return outcome
    rates: list[float] = []

    def follow(event: Event) -> None:
        if isinstance(event, RunStarted):
            rates.append(event.learning_rate)
        _say(event)

    ranks = Ranks(local_world=order.processes)
    result = train(order.config, resume=True, emit=follow, ranks=ranks)
    return replace(
        outcome,
        steps=result.progress.step,
        learning_rate=rates[-1],
        trainable=result.trainable.numbers,
        seconds=result.progress.seconds,
        tokens=result.progress.tokens,
        peak_memory_mb=result.peak_memory_mb,
        bytes_on_disk=sum(file.stat().st_size for file in RunFolder(order.folder).weights.values()),
    )


def _assistant(order: Order) -> Assistant:
    """The model to score, read back from the disk as its users will have it."""
    # The method of computing in training does not matter here: this is how the result is used elsewhere.
    compute = order.config.compute.model_copy(update={"products": Products.EXACT})
    if order.method == BASE:
        request = AssistantRequest(model=order.config.model, compute=compute, revision=order.config.revision)
    elif order.config.method is Method.FULL:
        request = AssistantRequest(model=str(order.folder), compute=compute)
    else:
        request = AssistantRequest(
            model=order.config.model, adapter=order.folder, compute=compute, revision=order.config.revision
        )
    return load_assistant(request, _say)


def _say(event: Event) -> None:
    print(to_text(with_reasons(to_json(event))), flush=True)


if __name__ == "__main__":
    end_by_signals(lambda: sys.exit(main(sys.argv[1:])))
