"""The automatic learning rate against its neighbours: evaluation loss and exact answers of a small sweep.

Usage: python benchmarks/defaults.py [--method lora|qlora|full] [--factors 0.5,0.75,1,1.5] [--tasks claims,banking77]
       [--rows N] [--eval-rows N] [--banking77 FOLDER] [--output FOLDER]

Each task is trained once for every factor with all defaults of `veneer train` and `train.examples_per_step: auto`; only
the learning rate is the factor times the automatic one. One epoch over a seeded subset, whose size stands in the table:
the bundled claims (evaluated on new records), and banking77 (PolyAI, CC BY 4.0), a customer's question with the name of
its intent as the answer, where `train.csv` and `test.csv` are beside the checkout or named. Runs that are done are not
repeated, and one that was interrupted is gone on with. Writes a table, two SVG charts and results.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from veneer.assistant.assistant import make_assistant
from veneer.bundled import bundled_data, bundled_model
from veneer.config import DataSection, RunConfig, TrainSection
from veneer.data.records import read_records
from veneer.enums import Method
from veneer.errors import VeneerError
from veneer.evaluation.rows import prepare, score_rows
from veneer.events import ignore
from veneer.html.charts import Series, line_chart
from veneer.io.checkpoint import open_checkpoint
from veneer.model.families.choose import spec_from_hf
from veneer.run_folder import RunFolder
from veneer.training.recommend import Recommendation, recommended_examples, recommended_rate, steps_of
from veneer.training.run import train
from veneer.training.trainable import AdapterTraining

ROOT = Path(__file__).parents[1]
BANKING77 = ROOT.parent / "shared" / "data" / "banking77"
FACTORS = (0.5, 0.75, 1.0, 1.5)
SEED = 0
"""Of the subsets, and of the runs."""
RESULT, SETTINGS = "measured.json", "settings.json"


@dataclass(frozen=True, slots=True)
class Task:
    """Rows to train on and to evaluate on, as files."""

    name: str
    train: Path
    test: Path
    rows: int
    eval_rows: int


@dataclass(frozen=True, slots=True)
class Result:
    """What one run came to."""

    task: str
    factor: float
    learning_rate: float
    steps: int
    loss: float
    """Nats a supervised token of the evaluation rows."""
    exact: float
    """Share of the evaluation rows that are answered exactly."""
    train_seconds: float
    eval_seconds: float


def subset(rows: Sequence[Mapping[str, object]], count: int, path: Path) -> int:
    """Write `count` rows, drawn by SEED, as JSONL in the order of the file; returns how many there were."""
    chosen = sorted(random.Random(SEED).sample(range(len(rows)), min(count, len(rows))))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(rows[index]) + "\n" for index in chosen), encoding="utf-8")
    return len(chosen)


def claims(folder: Path, rows: int, eval_rows: int) -> Task:
    """The quickstart's messages."""
    files = {}
    sizes = {}
    for part, source, count in (("train", "train.jsonl", rows), ("test", "new_records.jsonl", eval_rows)):
        lines = (bundled_data() / source).read_text(encoding="utf-8").splitlines()
        files[part] = folder / f"claims-{part}.jsonl"
        sizes[part] = subset([json.loads(line) for line in lines], count, files[part])
    return Task("claims", files["train"], files["test"], sizes["train"], sizes["test"])


def banking77(source: Path, folder: Path, rows: int, eval_rows: int) -> Task:
    """Questions to a bank, answered by the name of their intent.

    Raises:
        FileNotFoundError: the data is not there.
    """
    files = {}
    sizes = {}
    for part, count in (("train", rows), ("test", eval_rows)):
        with (source / f"{part}.csv").open(encoding="utf-8", newline="") as file:
            chats = [
                {
                    "messages": [
                        {"role": "system", "content": "Name the intent of the customer's message."},
                        {"role": "user", "content": row["text"]},
                        {"role": "assistant", "content": row["category"].replace("_", " ")},
                    ]
                }
                for row in csv.DictReader(file)
            ]
        files[part] = folder / f"banking77-{part}.jsonl"
        sizes[part] = subset(chats, count, files[part])
    return Task("banking77", files["train"], files["test"], sizes["train"], sizes["test"])


def configuration(task: Task, model: str, method: Method, rate: float, output: Path) -> RunConfig:
    """A run with everything at its default but the rate and what says how long it takes."""
    return RunConfig(
        model=model,
        output=str(output),
        method=method,
        data=DataSection(file=str(task.train)),
        train=TrainSection(learning_rate=rate, examples_per_step="auto", seed=SEED),
    )


def automatic_rate(task: Task, method: Method, width: int) -> Recommendation:
    """The rate that a run of this task gets by itself."""
    section = TrainSection(examples_per_step="auto")
    examples = int(recommended_examples(task.rows, section).value)
    return recommended_rate(method, width, steps=steps_of(task.rows, section, examples), examples=examples)


def measure(task: Task, model: str, method: Method, factor: float, automatic: float, folder: Path) -> Result:
    """Train and evaluate, or read what was measured before with these settings.

    Raises:
        VeneerError: the run cannot be made.
    """
    output = folder / f"{task.name}-{method.value}-x{factor:g}"
    config = configuration(task, model, method, factor * automatic, output)
    settings = config.model_dump_json() + task.train.read_text("utf-8") + task.test.read_text("utf-8")
    if (output / SETTINGS).is_file() and (output / SETTINGS).read_text(encoding="utf-8") != settings:
        shutil.rmtree(output)
    if (output / RESULT).is_file():
        return Result(**json.loads((output / RESULT).read_text(encoding="utf-8")))
    output.mkdir(parents=True, exist_ok=True)
    (output / SETTINGS).write_text(settings, encoding="utf-8")
    run = train(config, resume=RunFolder(output).resumable)
    begun = time.perf_counter()
    adapter = run.trainable.adapter if isinstance(run.trainable, AdapterTraining) else None
    assistant = make_assistant(run.model, open_checkpoint(model), adapter)
    scores = score_rows(assistant, prepare(assistant, read_records(task.test)), emit=ignore)
    result = Result(
        task=task.name,
        factor=factor,
        learning_rate=factor * automatic,
        steps=run.progress.step,
        loss=sum(score.loss_sum for score in scores) / sum(score.supervised for score in scores),
        exact=sum(bool(score.exact) for score in scores) / len(scores),
        train_seconds=round(run.progress.seconds, 1),
        eval_seconds=round(time.perf_counter() - begun, 1),
    )
    (output / RESULT).write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(RunFolder(output).checkpoints)
    return result


def table(tasks: Sequence[Task], results: Sequence[Result]) -> str:
    """A Markdown table of all runs, and a line for each task that holds the automatic rate against the best."""
    head = ("task", "rate", "of the automatic", "steps", "evaluation loss", "exact", "seconds")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for one in results:
        lines.append(
            f"| {one.task} | {one.learning_rate:.2e} | ×{one.factor:g} | {one.steps} | {one.loss:.4f} | "
            f"{one.exact:.1%} | {one.train_seconds + one.eval_seconds:.0f} |"
        )
    lines.append("")
    for task in tasks:
        lines += [f"{task.name}: {task.rows} rows trained, {task.eval_rows} evaluated; {verdict(task.name, results)}"]
    return "\n".join(lines)


def verdict(task: str, results: Sequence[Result]) -> str:
    """How far the automatic rate is from the best of the sweep, in loss and in exact answers."""
    own = [one for one in results if one.task == task]
    automatic = next((one for one in own if one.factor == 1.0), None)
    if automatic is None:
        return "the automatic rate was not run"
    lowest = min(own, key=lambda one: one.loss)
    most = max(own, key=lambda one: one.exact)
    loss, exact = automatic.loss / lowest.loss - 1, 100 * (most.exact - automatic.exact)
    return (
        f"the automatic rate's loss is {loss:.1%} above the lowest (×{lowest.factor:g}), its exact answers {exact:.1f} "
        f"points below the most (×{most.factor:g})"
    )


def write_charts(results: Sequence[Result], folder: Path) -> list[Path]:
    """Loss and exact answers over the rate, as SVG files."""
    written = []
    for name, label, value in (
        ("loss", "evaluation loss (nats a token)", lambda one: one.loss),
        ("exact", "exact answers (%)", lambda one: 100 * one.exact),
    ):
        series = [
            Series(task, [(math.log2(one.factor), value(one)) for one in results if one.task == task], marked=True)
            for task in dict.fromkeys(one.task for one in results)
        ]
        chart = line_chart("The automatic learning rate and its neighbours", "doublings of the rate", label, series)
        written.append(folder / f"defaults-{name}.svg")
        written[-1].write_text(chart, encoding="utf-8")
    return written


def tasks_of(args: argparse.Namespace) -> list[Task]:
    """The tasks that were asked for and whose data is there."""
    found = []
    for name in args.tasks.split(","):
        if name == "claims":
            found.append(claims(args.output, args.rows or 400, args.eval_rows or 200))
        elif name == "banking77" and (args.banking77 / "train.csv").is_file():
            found.append(banking77(args.banking77, args.output, args.rows or 800, args.eval_rows or 1000))
        elif name == "banking77":
            print(f"banking77 is left out: no train.csv in {args.banking77} (--banking77 names the folder)")
        else:
            raise ValueError(f"--tasks {name!r} is unknown; known: claims, banking77")
    return found


def sweep(args: argparse.Namespace) -> tuple[list[Task], list[Result]]:
    """All runs.

    Raises:
        VeneerError: a run cannot be made.
        ValueError: an option cannot be used.
    """
    model = args.model or bundled_model()
    method = Method(args.method)
    width = spec_from_hf(open_checkpoint(model).config).hidden_size
    factors = [float(text) for text in args.factors.split(",")]
    if min(factors) <= 0:
        raise ValueError("--factors must be positive numbers")
    tasks, results = tasks_of(args), []
    for task in tasks:
        automatic = automatic_rate(task, method, width)
        print(f"{task.name}: {automatic.note()}")
        for factor in factors:
            results.append(measure(task, model, method, factor, float(automatic.value), args.output))
            one = results[-1]
            print(f"{one.task} ×{one.factor:g}: loss {one.loss:.4f}, exact {one.exact:.1%}", flush=True)
    return tasks, results


def main(argv: Sequence[str] | None = None) -> None:
    """Sweep, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="in place of the quickstart's")
    parser.add_argument("--method", choices=[method.value for method in Method], default="lora")
    parser.add_argument("--factors", default=",".join(f"{factor:g}" for factor in FACTORS))
    parser.add_argument("--tasks", default="claims,banking77")
    parser.add_argument("--rows", type=int, help="to train on (400 claims, 800 of banking77)")
    parser.add_argument("--eval-rows", type=int, help="to evaluate on (200 and 1,000)")
    parser.add_argument("--banking77", type=Path, default=BANKING77, help="folder of train.csv and test.csv")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "defaults")
    args = parser.parse_args(argv)
    try:
        tasks, results = sweep(args)
    except (VeneerError, ValueError, OSError) as problem:
        sys.exit(f"defaults: {problem}")
    charts = write_charts(results, args.output)
    (args.output / "results.json").write_text(json.dumps([asdict(one) for one in results], indent=1) + "\n", "utf-8")
    print(table(tasks, results))
    print(f"charts: {', '.join(os.path.relpath(chart) for chart in charts)}")


if __name__ == "__main__":
    main()
