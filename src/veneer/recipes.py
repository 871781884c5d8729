"""The API's verbs with a terminal around them: progress shown, questions asked, answers streamed."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.text import Text

from veneer.assistant import Assistant, lines_of, open_assistant, turns
from veneer.comparison.order import Order
from veneer.comparison.run import CompareConfig, CompareResult, compare
from veneer.config import ComputeSection, QuantSection, RunConfig
from veneer.data.records import Message, read_records
from veneer.display import (
    TrainingDisplay,
    comparison_of_methods,
    counting,
    differences_table,
    merge_table,
    parity_table,
    plan_table,
    report_table,
    sample_table,
    sweep_table,
)
from veneer.enums import Method
from veneer.errors import ConfigError, DataError, listing
from veneer.evaluation.run import Report, RowSet, evaluate_rows, prepare
from veneer.events import Evaluated, Event, RunFinished, StepDone, Subscriber
from veneer.exports.certificate import Certificate
from veneer.exports.job import StoredDtype
from veneer.exports.record import ExportRecord
from veneer.exports.run import Target, export
from veneer.exports.verify import verify
from veneer.generation import Sampling
from veneer.io.files import write_text
from veneer.quantization import quantize
from veneer.reproduction.run import Reproduction, reproduce
from veneer.sweeps.grid import Point
from veneer.sweeps.outcome import Outcome, best_of, to_json
from veneer.sweeps.run import CHART_FILE, TOGETHER, sweep
from veneer.training.interrupt import interruptible
from veneer.training.planned import Expected, estimate_of, plan_of
from veneer.training.run import RunResult, train

SAMPLES_SHOWN = 3
TEXT_WIDTH = 140
"""Of the tables that are written to files, in characters."""


def console() -> Console:
    """Where people read: standard error."""
    return Console(stderr=True)


def train_visibly(config: RunConfig, *, resume: bool = False, as_json: bool = False) -> RunResult:
    """Train with a progress bar, or with every event as a line of JSON on standard output; Ctrl-C ends after a step."""
    screen = console()
    notice = "stopping after this step; once more to stop at once (the last checkpoint stays)"
    # Written past Python's buffers: the signal may arrive while the main thread is inside of them.
    with interruptible(lambda: _write_to_stderr(f"\n{notice}\n")) as stop:
        if as_json:
            return train(config, resume=resume, subscribers=[_print_event], stop=stop)
        with TrainingDisplay(screen) as display:
            subscribers: list[Subscriber] = [display]
            return train(config, resume=resume, subscribers=subscribers, stop=stop)


def sweep_visibly(
    values: Mapping[str, Any], grid: Mapping[str, list[Any]], output: Path, *, together: int | None, as_json: bool
) -> list[Outcome]:
    """Train a grid's points with a line for what happens; table (or JSON) at the end, also where it was interrupted."""
    screen = console()
    notice = "stopping after this step; the same command goes on"
    with interruptible(lambda: _write_to_stderr(f"\n{notice}\n")) as stop, screen.status("planning") as status:

        def follow(point: Point) -> list[Subscriber]:
            return [lambda event: _follow_point(screen, status, point, event)]

        outcomes = sweep(
            values,
            grid,
            output,
            together=together or TOGETHER,
            subscribers=follow,
            on_group=lambda group: screen.print(f"training {len(group)} together: {', '.join(p.name for p in group)}"),
            stop=stop,
        )
    best = best_of(outcomes)
    if as_json:
        shown = {"points": to_json(outcomes), "best": None if best is None else best.name}
        click.echo(json.dumps(shown, indent=2))
        return outcomes
    Console().print(sweep_table(outcomes, best))
    click.echo(f"chart: {output / CHART_FILE}")
    if best is not None:
        click.echo(f"best: {output / best.name}")
    return outcomes


def _follow_point(screen: Console, status: Status, point: Point, event: Event) -> None:
    if isinstance(event, StepDone):
        status.update(escape(f"{point.name}: step {event.step:,}, loss {event.loss:.4f}"))
    elif isinstance(event, Evaluated):
        screen.print(escape(f"{point.name}: step {event.step:,}, evaluation loss {event.loss:.4f}"))
    elif isinstance(event, RunFinished) and event.reason != "complete":
        screen.print(escape(f"{point.name}: {event.reason} after step {event.step:,}"))


def plan_visibly(config: RunConfig, device: str, expected: Expected, *, as_json: bool) -> None:
    """Print a run's plan, as a table or as JSON; where transformers computes the model, an estimate.

    Raises:
        ConfigError: it does not fit; the plan has been printed all the same.
    """
    rough = estimate_of(config, device, expected)
    if rough is not None:
        click.echo(json.dumps(rough.to_json(), indent=2) if as_json else "\n".join(rough.lines()))
        return
    plan = plan_of(config, device, expected)
    if as_json:
        click.echo(json.dumps(plan.to_json(), indent=2))
    else:
        Console().print(plan_table(f"{config.model}: {config.method.value} on {device}", plan))
    if plan.refusal is not None:
        raise ConfigError(plan.refusal)


def quantize_visibly(model: str, output: Path, quant: QuantSection, dtype: str, *, as_json: bool) -> None:
    """Quantise under a spinner that names the tensor being read, and say what came of it."""
    screen = console()
    with screen.status(escape(f"quantising {model}")) as status:
        done = quantize(
            model,
            output,
            quant=quant,
            dtype=dtype,
            progress=lambda name: status.update(escape(f"quantising {model}: {name}")),
        )
    if as_json:
        facts = {
            "output": str(done.output), "quant": done.quant.model_dump(mode="json"), "layers": done.layers,
            "dense": list(done.dense), "weights": done.weights, "bits": done.bits, "bytes": done.bytes,
        }  # fmt: skip
        click.echo(json.dumps(facts, indent=2))
        return
    kept = f", {len(done.dense)} kept dense" if done.dense else ""
    click.echo(
        f"{done.output}: {done.layers} linear layers in {done.quant.scheme.value}, {done.bits:.2f} bits a weight"
        f"{kept}; {done.bytes / 1e6:,.0f} MB with all that stays dense"
    )


def _write_to_stderr(text: str) -> None:
    os.write(2, text.encode())


def _print_event(event: Event) -> None:
    click.echo(json.dumps({"event": type(event).__name__, **asdict(event)}))


def open_visibly(
    model: str, adapter: Path | None, method: Method | None, compute: ComputeSection, *, screen: Console | None = None
) -> Assistant:
    """Load a model under a spinner that names the tensor being read."""
    screen = screen or console()
    with screen.status(escape(f"loading {model}")) as status:
        return open_assistant(
            model,
            adapter=adapter,
            method=method,
            compute=compute,
            progress=lambda name: status.update(escape(f"loading {model}: {name}")),
        )


def evaluate_visibly(
    model: str,
    data: str,
    *,
    adapter: Path | None,
    method: Method | None,
    compute: ComputeSection,
    limit: int | None,
    max_new_tokens: int | None,
    as_json: bool,
) -> Report:
    """Evaluate with progress bars; prints tables unless the caller wants JSON."""
    records = read_records(data)[:limit]
    screen = console()
    assistant = open_visibly(model, adapter, method, compute, screen=screen)
    report = score_visibly(assistant, prepare(assistant, records, max_new_tokens=max_new_tokens), screen)
    if not as_json:
        output = Console()
        output.print(report_table(data, report))
        if report.samples:
            output.print(sample_table("Samples", report.samples[:SAMPLES_SHOWN]))
    return report


def score_visibly(assistant: Assistant, rows: RowSet, screen: Console, what: str = "") -> Report:
    """Score base and adapter, each under a bar."""
    models = 1 if assistant.adapter is None else 2
    answered = sum(question is not None for question in rows.questions)
    with counting(screen, f"evaluating{what}", models * answered) as done:
        return evaluate_rows(assistant, rows, on_done=lambda who, count: done(count))


def export_visibly(
    model: str | None,
    adapter: Path,
    output: Path,
    *,
    to: Target,
    dtype: StoredDtype,
    quant: str | None,
    data: str | None,
    limit: int | None,
    gap: float | None,
    method: Method | None,
    compute: ComputeSection,
    as_json: bool,
) -> ExportRecord:
    """Export under a spinner; prints what was measured unless the caller wants JSON."""
    screen = console()
    with screen.status(escape(f"exporting {adapter}")) as status:
        record = export(
            model,
            adapter,
            output,
            to=to,
            dtype=dtype,
            quant=quant,
            data=data,
            limit=limit,
            gap=gap,
            method=method,
            compute=compute,
            progress=lambda what: status.update(escape(what)),
        )
    if not as_json:
        shown = Console()
        if record.measured is not None:
            shown.print(merge_table(record.merged_into, record.measured, packed=to is Target.MERGED_4BIT))
        if record.parity is not None:
            shown.print(parity_table(record.parity))
        for note in (*record.notes, *(record.parity.notes if record.parity else ())):
            shown.print(Text(note), soft_wrap=True)
        shown.print(Text(_written(record)), soft_wrap=True)
    return record


def _written(record: ExportRecord) -> str:
    if record.written is None:
        return f"{record.to}: {record.output} ({record.format})"
    kind = f"4 bits, the rest in {record.dtype}" if record.to == Target.MERGED_4BIT.value else record.dtype
    return (
        f"model: {record.output} ({kind}, {record.written.changed} of {record.written.tensors} tensors changed, merged "
        f"into the {record.merged_into} base)"
    )


def verify_visibly(
    folder: Path,
    *,
    adapter: Path | None,
    model: str | None,
    data: str | None,
    limit: int | None,
    gap: float | None,
    compute: ComputeSection,
    as_json: bool,
) -> Certificate:
    """Check an export under a spinner; prints the certificate unless the caller wants JSON."""
    with console().status(escape(f"checking {folder}")) as status:
        certificate = verify(
            folder,
            adapter=adapter,
            model=model,
            data=data,
            limit=limit,
            gap=gap,
            compute=compute,
            progress=lambda what: status.update(escape(what)),
        )
    if not as_json:
        shown = Console()
        shown.print(parity_table(certificate))
        for note in certificate.notes:
            shown.print(Text(note), soft_wrap=True)
        if certificate.passed:
            unchanged = f"{folder} is what it was made from: {len(certificate.files)} files unchanged"
            shown.print(Text(unchanged), soft_wrap=True)
    return certificate


def reproduce_visibly(
    run: Path, *, output: Path | None, model: str | None, data: str | None, eval_data: str | None, as_json: bool
) -> Reproduction:
    """Make a run again with a progress bar, and say what came of it unless the caller wants JSON."""
    screen = console()

    def warn(differing: list[str]) -> None:
        if differing:
            screen.print(Text(f"computed otherwise here, so that other bytes may come out:\n{listing(differing)}"))

    with (
        interruptible(lambda: _write_to_stderr("\nstopping after this step\n")) as stop,
        TrainingDisplay(screen) as display,
    ):
        found = reproduce(
            run, output=output, model=model, data=data, eval_data=eval_data, subscribers=[display], stop=stop,
            on_environment=warn,
        )  # fmt: skip
    if not as_json:
        for line in found.lines():
            click.echo(line)
        if found.output is not None:
            click.echo(f"run: {found.output}")
    return found


def compare_visibly(config: CompareConfig, *, as_json: bool) -> CompareResult:
    """Compare methods with a line for every run; prints tables unless the caller wants JSON."""
    screen = console()
    with screen.status("preparing") as status:
        result = compare(config, follow=_follower(screen, status))
    tables = [comparison_of_methods(result), *([differences_table(result.differences)] if result.differences else [])]
    text = io.StringIO()
    for table in tables:
        Console(file=text, width=TEXT_WIDTH).print(table)
    write_text(Path(config.output) / "compare.txt", text.getvalue())
    for name, problem in result.problems.items():
        screen.print(Text(f"{name}: not run: {problem}"), soft_wrap=True)
    if not as_json:
        shown = Console()
        for table in tables:
            shown.print(table)
        shown.print(Text(f"everything, with plots: {config.output}"), soft_wrap=True)
    return result


def _follower(screen: Console, status: Status) -> Callable[[Order, Mapping[str, Any]], None]:
    """Turns the events of a comparison's runs into one line that moves and one that stays for each run."""
    steps = 0

    def follow(order: Order, event: Mapping[str, Any]) -> None:
        nonlocal steps
        name = order.folder.name
        match event["event"]:
            case "RunStarted":
                steps = event["steps"]
            case "StepDone":
                status.update(escape(f"{name}: step {event['step']} of {steps}, loss {event['loss']:.3f}"))
            case "Scoring":
                status.update(escape(f"{name}: scoring {event['rows']} rows"))
            case "Done":
                screen.print(Text(f"{name}: done{' before' if event['again'] else ''}"))
            case "Failed":
                screen.print(Text(f"{name}: {event['message']}"), soft_wrap=True)
            case "Begun":
                status.update(escape(f"{name}: loading"))

    return follow


def read_question(prompt: str | None) -> str:
    """The prompt that was given, or else standard input.

    Raises:
        DataError: it is empty, or is not UTF-8.
    """
    try:
        question = sys.stdin.read().strip() if prompt is None else prompt
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not UTF-8 text: {error}") from error
    if not question.strip():
        raise DataError("the prompt is empty; give --prompt, --input or text on standard input")
    return question


def read_questions(path: Path) -> list[str]:
    """The prompts of a text file, one a line.

    Raises:
        DataError: the file cannot be read or holds no line.
    """
    try:
        questions = list(lines_of(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text: {error}") from error
    if not questions:
        raise DataError(f"{path}: holds no question; write one a line")
    return questions


def answer(
    assistant: Assistant, question: str, system: str | None, sampling: Sampling, on_text: Callable[[str], None]
) -> str:
    """Answer one question, streaming its text."""
    return assistant.stream(turns(system, question), sampling, on_text)


def answer_all(
    assistant: Assistant, questions: list[str], system: str | None, sampling: Sampling
) -> Iterator[tuple[str, str]]:
    """Every question with its answer, decoded together."""
    with counting(console(), "answering", len(questions)) as done:
        answers = assistant.answers([turns(system, question) for question in questions], sampling, on_done=done)
    yield from zip(questions, answers, strict=True)


def converse(assistant: Assistant, system: str | None, sampling: Sampling) -> None:
    """A conversation in the terminal, until an empty line or the end of input."""
    beginning: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    history = list(beginning)
    click.echo("Type a message; an empty line ends, /new starts over.", err=True)
    while True:
        click.secho("> ", fg="blue", bold=True, nl=False, err=True)
        try:
            line = sys.stdin.readline().strip()
        except UnicodeDecodeError as error:
            raise DataError(f"standard input is not UTF-8 text: {error}") from error
        if not line:
            return
        if line == "/new":
            history = list(beginning)
            continue
        history.append({"role": "user", "content": line})
        reply = assistant.stream(history, sampling, lambda text: click.echo(text, nl=False))
        click.echo("")
        history.append({"role": "assistant", "content": reply})
