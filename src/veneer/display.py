"""What a person sees in the terminal: progress bars while something runs, tables when it is done.

Everything here writes to a `rich` console on standard error; standard output is left to results, so that it can be
piped. Where standard error is no terminal, rich prints no bars and one line a tenth of the run stands in for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from veneer.comparison.order import BASE
from veneer.comparison.run import CompareResult
from veneer.comparison.summary import Difference, Figure
from veneer.evaluation.run import Answered, Report
from veneer.evaluation.statistics import Comparison, Metric
from veneer.events import CheckpointSaved, Evaluated, Event, Note, RunFinished, RunStarted, StepDone
from veneer.exports.certificate import TOP, Certificate
from veneer.exports.record import Measured
from veneer.planning.plan import Plan, spoken
from veneer.sweeps.outcome import Outcome

PERCENT = ("exact", "fields")
"""Measures that are shares, shown in percent."""
LOWER_IS_BETTER = ("loss", "perplexity")
EXCERPT = 240
"""Longest answer shown in a table of samples, in characters."""
COMPONENTS = {
    "runtime": "interpreter, torch and what they load",
    "base": "the model's weights",
    "adapters": "",
    "gradients": "",
    "optimizer": "what it keeps of the gradients",
    "activations": "kept for backward",
    "logits": "scores of a chunk of supervised tokens",
    "workspace": "transient tensors of the widest layer",
    "heap": "what the allocator holds beyond the tensors",
}
"""Components of a plan's memory, and what they are."""
SMOOTHING = 0.9
"""Weight of the past in the loss that the progress bar shows."""


class TrainingDisplay:
    """Follows a run's events: a bar with loss, rate, time left and memory, and a line for what is worth one."""

    def __init__(self, console: Console):
        self.console = console
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._steps = 0
        self._begun_at = 0
        self._loss: float | None = None
        self._tokens = 0
        self._seconds = 0.0

    def __enter__(self) -> TrainingDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case RunStarted():
                self._start(event)
            case StepDone():
                self._step(event)
            case Evaluated():
                best = ", the best so far" if event.best else ""
                self._say(f"step {event.step}: evaluation loss {event.loss:.4f}{best}")
            case Note():
                self._say(event.message)
            case CheckpointSaved():
                pass
            case RunFinished():
                if event.reason == "complete":
                    self._say(
                        f"trained {event.step} steps in {duration(event.seconds)}, peak {event.memory_mb:,.0f} MB"
                    )

    def _start(self, event: RunStarted) -> None:
        resumed = f", going on after step {event.resumed_at}" if event.resumed_at else ""
        self._say(
            f"{event.method}: {event.trainable:,} trainable parameters, {event.examples:,} rows, "
            f"{event.steps:,} steps, peak learning rate {event.learning_rate:.3g}{resumed}"
        )
        self._steps, self._begun_at = event.steps, event.resumed_at
        self._task = self._progress.add_task("training", total=event.steps, completed=event.resumed_at, facts="")

    def _step(self, event: StepDone) -> None:
        self._loss = event.loss if self._loss is None else SMOOTHING * self._loss + (1 - SMOOTHING) * event.loss
        self._tokens += event.tokens
        self._seconds += event.seconds
        speed = self._tokens / max(self._seconds, 1e-9)
        facts = f"loss {self._loss:.3f}  {speed:,.0f} tok/s  {event.memory_mb:,.0f} MB"
        if self._task is not None:
            self._progress.update(self._task, completed=event.step, facts=facts)
        if not self.console.is_terminal and event.step % max(1, self._steps // 10) == 0:
            left = (self._steps - event.step) * self._seconds / max(1, event.step - self._begun_at)
            line = f"step {event.step}/{self._steps}  {facts}  left {duration(left)}"
            self.console.print(Text(line), soft_wrap=True)

    def _say(self, message: str) -> None:
        self.console.print(Text(message), soft_wrap=True)


@contextmanager
def counting(console: Console, description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over `total` things; yields a function that is told how many more are done."""
    bar = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s" if round(seconds, 1) >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def number(name: str, value: float) -> str:
    """A measure's value in its unit."""
    return f"{100 * value:.1f} %" if name in PERCENT else f"{value:.3f}"


def comparison_table(title: str, rows: list[Comparison], *, tuned: str = "adapter") -> Table:
    """Base against `tuned`, as it is called, with the interval of the paired difference."""
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for heading in ("", "base", tuned, "difference", "95 % interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in rows:
        unit = 100.0 if row.name in PERCENT else 1.0
        digits = 1 if row.name in PERCENT else 3
        better = (row.high < 0) if row.name in LOWER_IS_BETTER else (row.low > 0)
        worse = (row.low > 0) if row.name in LOWER_IS_BETTER else (row.high < 0)
        colour = "green" if better else "red" if worse else "yellow"
        table.add_row(
            row.name,
            number(row.name, row.base),
            number(row.name, row.adapter),
            Text(f"{unit * row.difference:+.{digits}f}", style=colour),
            f"{unit * row.low:+.{digits}f} to {unit * row.high:+.{digits}f}",
        )
    return table


def metric_table(title: str, rows: list[Metric]) -> Table:
    """The measures of one model."""
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for heading in ("", "value", "95 % interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in rows:
        ends = [number(row.name, end) for end in (row.low, row.high)]
        table.add_row(row.name, number(row.name, row.value), " to ".join(ends))
    return table


def report_table(title: str, report: Report) -> Table:
    """The table of an evaluation of one model or of two."""
    if report.comparison:
        return comparison_table(f"{title} ({report.rows} rows)", report.comparison)
    return metric_table(f"{title} ({report.rows} rows)", report.base)


def sweep_table(outcomes: Sequence[Outcome], best: Outcome | None) -> Table:
    """Every point of a sweep, the best one marked."""
    table = Table(title=f"{len(outcomes)} points", title_justify="left", title_style="bold")
    for key in outcomes[0].settings:
        table.add_column(key.rpartition(".")[2])
    for name in ("final loss", "best loss", "training loss", "time"):
        table.add_column(name, justify="right")
    for one in outcomes:
        losses = [one.final_loss, one.best_loss, one.train_loss]
        cells = ["" if loss is None else f"{loss:.4f}" for loss in losses]
        end = duration(one.seconds) if one.state == "complete" else one.state
        style = "green" if one is best else "yellow" if one.state != "complete" else None
        table.add_row(*(Text(str(value)) for value in one.settings.values()), *cells, end, style=style)
    return table


def sample_table(title: str, samples: list[Answered], *, tuned: str = "adapter") -> Table:
    """Row by row: what was asked, what base and `tuned` say (or the only model there is), and what was expected."""
    table = Table(title=Text(title), title_justify="left", title_style="bold", show_header=False)
    table.add_column("who", style="bold")
    # Folded, since an answer without spaces (JSON) would be cut at the column's edge.
    table.add_column("text", overflow="fold")
    for sample in samples:
        table.add_section()
        table.add_row("message", Text(sample.question))
        table.add_row("answer" if sample.adapter is None else "base", _excerpt(sample.base))
        if sample.adapter is not None:
            right = sample.adapter.strip() == sample.reference.strip()
            table.add_row(tuned, _excerpt(sample.adapter, style="green" if right else "yellow"))
        table.add_row("expected", Text(sample.reference))
    return table


def plan_table(title: str, plan: Plan) -> Table:
    """Where the memory goes, the cut, the time and the disk."""
    memory, choice, cut = plan.choice.memory, plan.choice, plan.choice.cut
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("MB", justify="right")
    table.add_column("")
    for name, text in COMPONENTS.items():
        size = getattr(memory, name)
        if size:
            table.add_row(name.replace("_", " "), f"{size / 1e6:,.0f}", text)
    table.add_section()
    for phase, size in memory.phases.items():
        mark = "the peak" if size == memory.peak else ""
        table.add_row(phase, f"{size / 1e6:,.0f}", mark)
    table.add_row("limit", f"{plan.limit.bytes / 1e6:,.0f}", Text(plan.limit.source))
    table.add_section()
    kept = "layers computed again in backward" if choice.recompute else "activations kept"
    table.add_row("micro-batch", "", f"up to {choice.micro_batch_tokens:,} tokens ({cut.micro_batches:.3g} a step)")
    table.add_row("", "", f"{kept}; the largest has {cut.tokens:,} tokens, the longest row {cut.longest:,}")
    source = "measured on this machine" if plan.rate.measured else "an estimate from the card's data sheet"
    rate = (
        f"{plan.rate.flops / 1e12:,.3g} TFLOP/s, {source}, of which a step reaches {100 * plan.rate.efficiency:.0f} %"
    )
    table.add_row("time", "", f"{spoken(plan.seconds)} a step, {spoken(plan.seconds * plan.steps)} for {plan.steps:,}")
    table.add_row("", "", rate)
    for name, size in (("result", plan.disk.result), ("a checkpoint", plan.disk.checkpoint)):
        table.add_row(f"disk: {name}", f"{size / 1e6:,.0f}", "")
    table.add_row("disk: merged model", f"{plan.disk.merged / 1e6:,.0f}", "")
    return table


def merge_table(kept: str, measured: Measured, *, packed: bool) -> Table:
    """Losses of base, adapter and merged model, and what quantisation leaves of it.

    packed: the merged model was written so.
    """
    table = Table(title=Text(f"{measured.data} ({measured.rows} rows)"), title_justify="left", title_style="bold")
    for heading in ("", "loss", "to the adapter", "95 % interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("base", f"{measured.base:.4f}")
    table.add_row("adapter", f"{measured.adapter:.4f}")
    found = {f"merged: {base} base": loss for base, loss in measured.merged.items()}
    if measured.requantised is not None and not packed:
        found["that quantised again"] = measured.requantised.loss
    for name, loss in found.items():
        chosen = " (kept)" if name == f"merged: {kept} base" and len(measured.merged) > 1 else ""
        ends = f"{loss.low:+.4f} to {loss.high:+.4f}"
        table.add_row(name + chosen, f"{loss.loss:.4f}", f"{loss.difference:+.4f}", ends)
    if measured.requantised is not None:
        left = measured.requantised.survival
        table.caption = (
            f"quantised, {100 * left.share:.1f} % of the update survives, whose size is {100 * left.update:.2f} % of "
            "the weights'"
        )
        table.caption_justify = "left"
    return table


def parity_table(certificate: Certificate) -> Table:
    """Who has read the export, and how far each is from the live adapter."""
    title = f"{certificate.format} beside the live adapter, {certificate.prompts} prompts of {certificate.prompts_from}"
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for heading in (
        "read by",
        "token\nids",
        "template",
        "KL\nmean",
        f"largest\ntop-{TOP} gap",
        "same\nfirst",
        "same\nanswer",
    ):
        table.add_column(heading, justify="left" if heading == "read by" else "right", no_wrap=True)
    for one in certificate.readers:
        table.add_row(
            one.reader,
            f"{one.texts_equal}/{one.texts}",
            f"{one.renderings_equal}/{one.renderings}",
            f"{one.divergence:.1e}",
            f"{one.gap:.1e}",
            f"{one.top1}/{one.positions}",
            f"{one.greedy_equal}/{one.greedy}",
        )
    verdict = "passed" if certificate.passed else "FAILED"
    tensors = certificate.tensors
    read_back = f"{tensors.compared} tensors read back, off by at most {100 * tensors.error:.2g} %; " if tensors else ""
    table.caption = f"{verdict}: {read_back}{certificate.threshold.gap:g} nats allowed"
    table.caption_justify = "left"
    return table


def comparison_of_methods(result: CompareResult) -> Table:
    """A row for the base and each method: what it takes, and what comes of it."""
    names = [name for name in ("loss", "exact", "fields") if any(name in one.metrics for one in result.methods)]
    title = f"{result.config.data}: {result.training_rows:,} rows trained, {result.evaluation_rows:,} others scored"
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    measures = [f"{name}\n%" if name in PERCENT else name for name in names]
    # Units in the headings, so that it fits into 80 columns.
    for heading in ("", "trained\nmillions", "disk\nMB", "memory\nMB", "time\ns", *measures):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for one in result.methods:
        fewer = one.method != BASE and len(one.seeds) < result.config.seeds
        costs = [f"{one.trainable / 1e6:,.2f}", f"{one.bytes_on_disk / 1e6:,.1f}"]
        costs += [f"{one.peak_memory_mb.mean:,.0f}", f"{one.seconds.mean:,.0f}"]
        shown = [_figure(name, one.metrics[name]) if name in one.metrics else "" for name in names]
        name = f"{one.method} ({len(one.seeds)})" if fewer else one.method
        table.add_row(name, *(costs if one.method != BASE else [""] * 4), *shown)
    seeds = result.config.seeds
    interval = "; ± half of their 95 % interval (Student's t)" if seeds > 1 else ""
    table.caption = f"peak memory, time of the training steps; means over {seeds} seed{'s'[: seeds - 1]}{interval}"
    table.caption_justify = "left"
    return table


def differences_table(found: Sequence[Difference]) -> Table:
    """Each method against the reference on the same rows."""
    table = Table(title=Text(f"against {found[0].reference}"), title_justify="left", title_style="bold")
    for heading in ("", "", "difference", "95 % interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    for one in found:
        row, unit = one.values, 100.0 if one.values.name in PERCENT else 1.0
        digits = 1 if row.name in PERCENT else 3
        ends = f"{unit * row.low:+.{digits}f} to {unit * row.high:+.{digits}f}"
        table.add_row(one.method, row.name, f"{unit * row.difference:+.{digits}f}", ends)
    table.caption = "rows paired, each a mean over seeds; the interval is of the rows"
    table.caption_justify = "left"
    return table


def _figure(name: str, value: Figure) -> str:
    unit, digits = (100.0, 1) if name in PERCENT else (1.0, 3)
    half = "" if value.high is None else f"±{unit * (value.high - value.mean):.{digits}f}"
    return f"{unit * value.mean:.{digits}f}{half}"


def _excerpt(text: str, style: str = "") -> Text:
    """The start of an answer on one line: an untrained model may go on for long."""
    flat = " ".join(text.split())
    return Text(flat if len(flat) <= EXCERPT else flat[: EXCERPT - 1] + "…", style=style)
