"""Preferences on the real small model: records without invented fields against records with them.

Usage: python benchmarks/preferences.py [--objectives dpo,orpo,...] [--rows N] [--pairs N] [--eval-rows N] [--seeds N]
       [--output FOLDER]

The task is made of the bundled claims and needs no network. Three of five rows of fine-tuning have an answer with a
field that the message says nothing of (`"status":"open"`), as careless annotators would write them, so that the
fine-tuned model invents it in its likeliest answer. Then each objective goes on from that adapter with pairs over other
messages, where the right record is chosen and one with the invented field rejected; KTO with the same as labels. Held
out are the bundled new records. Two things are judged, before and after:

- accuracy: the share of held-out pairs whose chosen answer has the higher mean log-probability a token;
- clean: the share of greedy answers that are JSON and have no field that the right record has not; and exact ones.

Runs that are done are not repeated, and one that was interrupted is gone on with. With several seeds the interval is
Student's over seeds, with one it is Wilson's over rows. Writes results.json, and prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from veneer.assistant import Assistant, make_assistant
from veneer.bundled import bundled_data, bundled_model
from veneer.config import RunConfig
from veneer.data.chat import Example
from veneer.data.encoding import encode_all
from veneer.data.preference import to_pair
from veneer.data.records import read_records
from veneer.enums import Overlong
from veneer.evaluation.rows import prepare, score_rows
from veneer.evaluation.scoring import row_losses
from veneer.evaluation.statistics.shares import wilson
from veneer.evaluation.statistics.student import quantile
from veneer.io.checkpoint import open_checkpoint
from veneer.run_folder import RunFolder
from veneer.training.run import train
from veneer.training.session import RunResult
from veneer.training.trainable import AdapterTraining

INVENTED = {"status": "open"}
"""What no message speaks of, and careless answers say at their end."""
CARELESS = 0.6
"""Share of the rows of fine-tuning that are so."""
SETTINGS: dict[str, dict[str, Any]] = {"orpo": {}, "cpo": {}, "simpo": {}, "dpo": {}, "kto": {}}
"""The objectives that are tried, with settings that differ from the defaults."""
MEASURED = "measured.json"


@dataclass(frozen=True, slots=True)
class Measured:
    """What one adapter came to."""

    name: str
    seed: int
    accuracy: float
    """Share of held-out pairs whose chosen answer is the likelier a token."""
    clean: float
    """Share of answers without an invented field."""
    exact: float
    """Share of answers that are right to the letter."""
    rows: int
    """Number of messages that were answered, and of pairs."""
    train_seconds: float
    """Seconds of the run's steps."""
    learning_rate: float
    steps: int


def invented(answer: str) -> str:
    """A record with one field more."""
    return json.dumps(json.loads(answer) | INVENTED, ensure_ascii=False, separators=(",", ":"))


def pair(row: dict[str, Any]) -> dict[str, Any]:
    """The right record, and one with an invented field."""
    *before, answer = row["messages"]
    return {
        "prompt": before,
        "chosen": [answer],
        "rejected": [answer | {"content": invented(answer["content"])}],
    }


def labelled(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A pair as two rows with a label."""
    return [
        {"prompt": row["prompt"], "completion": row[key], "label": key == "chosen"} for key in ("chosen", "rejected")
    ]


def write_task(folder: Path, rows: int, pairs: int, eval_rows: int, seed: int) -> dict[str, Path]:
    """The files of a seed: careless rows, pairs over other messages, held-out pairs, and held-out messages."""
    source = random.Random(seed)
    found = _lines(bundled_data() / "train.jsonl")
    source.shuffle(found)
    careless, others = found[:rows], found[rows : rows + pairs]
    for row in careless[: round(CARELESS * len(careless))]:
        row["messages"][-1]["content"] = invented(row["messages"][-1]["content"])
    held_out = _lines(bundled_data() / "new_records.jsonl")[:eval_rows]
    contents = {
        "sft": careless,
        "pairs": [pair(row) for row in others],
        "held-out pairs": [pair(row) for row in held_out],
        "held-out rows": held_out,
    }
    for name in ("pairs", "held-out pairs"):
        contents[name.replace("pairs", "labels")] = [one for row in contents[name] for one in labelled(row)]
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, content in contents.items():
        files[name] = folder / f"{name.replace(' ', '-')}.jsonl"
        files[name].write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), "utf-8")
    return files


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def configuration(name: str, files: dict[str, Path], model: str, folder: Path, seed: int) -> RunConfig:
    """Fine-tuning, or an objective that goes on from it, with everything at its default but what says how long."""
    rows = {"sft": "sft", "kto": "labels"}.get(name, "pairs")
    values: dict[str, Any] = {
        "model": model,
        "output": str(folder / name),
        "method": "lora",
        "data": {"file": str(files[rows])},
        "train": {"seed": seed, "examples_per_step": 4},
    }
    if name != "sft":
        values["objective"] = name
        values["train"] |= {"from_adapter": str(folder / "sft")}
        values["data"]["eval_file"] = str(files[f"held-out {rows}"])
    return RunConfig.model_validate(values | SETTINGS.get(name, {}))


def measure(name: str, files: dict[str, Path], model: str, folder: Path, seed: int) -> Measured:
    """Train and judge, or read what was measured before with these settings."""
    config = configuration(name, files, model, folder, seed)
    done = folder / name / MEASURED
    settings = config.model_dump_json()
    if done.is_file():
        before = json.loads(done.read_text(encoding="utf-8"))
        if before["settings"] == settings:
            return Measured(**before["measured"])
    run = train(config, resume=RunFolder(folder / name).resumable)
    found = judge(name, seed, run, files, model)
    done.write_text(json.dumps({"settings": settings, "measured": asdict(found)}, indent=1) + "\n", encoding="utf-8")
    return found


def judge(name: str, seed: int, run: RunResult, files: dict[str, Path], model: str) -> Measured:
    """Accuracy on held-out pairs, and what is in the greedy answers to held-out messages."""
    assert isinstance(run.trainable, AdapterTraining)
    assistant = make_assistant(run.model, open_checkpoint(model), run.trainable.adapter)
    records = read_records(files["held-out rows"])
    scores = score_rows(assistant, prepare(assistant, records))
    recorded = RunFolder(run.output).config()
    assert recorded is not None
    return Measured(
        name=name,
        seed=seed,
        accuracy=pair_accuracy(assistant, files["held-out pairs"]),
        clean=sum(
            is_clean(score.answer or "", record.messages[-1]["content"])
            for score, record in zip(scores, records, strict=True)
        )
        / len(scores),
        exact=sum(bool(score.exact) for score in scores) / len(scores),
        rows=len(scores),
        train_seconds=round(run.progress.seconds, 1),
        learning_rate=float(recorded.train.learning_rate),
        steps=run.progress.step,
    )


def pair_accuracy(assistant: Assistant, file: Path) -> float:
    """The share of pairs whose chosen answer has the higher mean log-probability a token."""
    pairs = [to_pair(row, f"{file}:{number}") for number, row in enumerate(_lines(file), start=1)]
    records = [record for one in pairs for record in one.records]
    found = encode_all(records, assistant.tokenizer, max_length=None, overlong=Overlong.DROP)
    examples: list[Example] = found.examples
    means = [loss / count for loss, count in row_losses(assistant.model, examples)]
    return sum(chosen < rejected for chosen, rejected in zip(means[::2], means[1::2], strict=True)) / len(pairs)


def is_clean(answer: str, reference: str) -> bool:
    """Whether an answer is a JSON object without fields that the right record has not."""
    try:
        said = json.loads(answer)
    except json.JSONDecodeError:
        return False
    return isinstance(said, dict) and said.keys() <= json.loads(reference).keys()


def interval(values: Sequence[float], rows: int) -> tuple[float, float]:
    """95 %: over seeds where there are several, over rows where there is one."""
    mean = statistics.fmean(values)
    if len(values) > 1:
        half = quantile(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
        return max(0.0, mean - half), min(1.0, mean + half)
    low, high = wilson(mean * rows, rows)
    return float(low), float(high)


def table(results: Sequence[Measured]) -> str:
    """A Markdown table, an adapter a line."""
    head = ("adapter", "seeds", "accuracy on held-out pairs", "answers without invented fields", "exact answers",
            "rate", "steps", "seconds")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in dict.fromkeys(one.name for one in results):
        own = [one for one in results if one.name == name]
        cells = [name, str(len(own))]
        for values in ([r.accuracy for r in own], [r.clean for r in own], [r.exact for r in own]):
            low, high = interval(values, own[0].rows)
            cells.append(f"{statistics.fmean(values):.1%} ({low:.1%} to {high:.1%})")
        cells += [f"{own[0].learning_rate:.2g}", str(own[0].steps)]
        cells.append(f"{statistics.fmean([one.train_seconds for one in own]):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objectives", default=",".join(SETTINGS), help="which, with commas")
    parser.add_argument("--rows", type=int, default=400, help="rows of fine-tuning")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--eval-rows", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/preferences"))
    options = parser.parse_args()
    begun, model = time.perf_counter(), bundled_model()
    results = []
    for seed in range(options.seeds):
        folder = options.output / f"seed-{seed}"
        files = write_task(folder, options.rows, options.pairs, options.eval_rows, seed)
        for name in ("sft", *options.objectives.split(",")):
            results.append(measure(name, files, model, folder, seed))
            (options.output / "results.json").write_text(
                json.dumps([asdict(one) for one in results], indent=1) + "\n", encoding="utf-8"
            )
            print(table(results), flush=True)
    print(f"{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
