"""Objectives beyond imitation on the real small model: does each do what it is for?

Usage: python benchmarks/preferences.py [--stages grpo,distillation,...] [--seeds N] [--rows N] [--pairs N]
       [--teacher-rows N] [--student-rows N] [--eval-rows N] [--output FOLDER]

`preference_tasks.py` makes the rows of the bundled claims; nothing needs a network. A stage is some runs and what is
claimed of the last one:

- grpo: after careless fine-tuning, on prompts whose answers are checked by metrics: more exact answers;
- grpo-clean: after fine-tuning on few rows without invented fields: more exact answers;
- distillation: a student is drawn to a teacher's predictions of few rows (the same base, fine-tuned on more rows):
  more exact answers, and a lower loss, than fine-tuning on those few rows;
- reward: a reward model gives the right one of held-out pairs the higher score, more often than by chance;
- dpo, kto, orpo, cpo, simpo: after careless fine-tuning, on pairs of the right record and one with an invented field
  (or labels): the right one of more held-out pairs is the likelier a token, and more answers have no invented field.

Every run is judged on the same held-out rows: greedy answers (exact, fields that are right, none invented, loss), or
pairs. Runs that are done are not repeated, and one that was interrupted is gone on with. Intervals are of 95 %: with
one seed over rows (paired, for differences), with several over seeds and rows. Writes results.json and prints tables
in Markdown, with the time of every run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from preference_tasks import Sizes, is_clean, read_lines, write_tasks

from veneer.assistant.assistant import Assistant, make_assistant
from veneer.bundled import bundled_model
from veneer.config import RunConfig
from veneer.data.encoded.encoding import encode_all
from veneer.data.forms.preference import to_pair
from veneer.data.records import read_records
from veneer.enums import ObjectiveName, Overlong
from veneer.evaluation.rows import prepare, score_rows
from veneer.evaluation.scoring import example_losses
from veneer.evaluation.statistics.compare import Comparison, contrast_seeds, describe
from veneer.evaluation.statistics.measures import SHARE, Measure, mean_of
from veneer.evaluation.statistics.student import quantile
from veneer.events import ignore
from veneer.io.checkpoint import open_checkpoint
from veneer.reward_model import open_reward_model
from veneer.run_folder import RunFolder
from veneer.training.run import train
from veneer.training.session import RunResult
from veneer.training.trainable import AdapterTraining

PAIRS, CLEAN, EXACT, FIELDS, LOSS = "pairs", "clean", "exact", "fields", "loss"
TITLES = {
    PAIRS: "right one of a pair preferred",
    CLEAN: "answers without invented fields",
    EXACT: "exact answers",
    FIELDS: "fields that are right",
    LOSS: "loss (nats a token)",
}
"""What is measured, each as one number a held-out row."""
MEASURED = "measured.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of a seed: everything that is not said is at its default."""

    name: str
    rows: str
    """The file that it trains on."""
    start: str | None = None
    """The run whose adapter it goes on from."""
    teacher: str | None = None
    """The run whose adapter it is taught by."""
    pairs: bool = True
    """Whether it is judged on held-out pairs too."""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claim:
    """One run has more (of the loss less) of a measure than another."""

    run: str
    measure: str
    against: str | None
    """The other run; None is chance, one of two."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Runs, in order, and what is claimed of them."""

    runs: tuple[Run, ...]
    claims: tuple[Claim, ...]


CARELESS = Run(name="sft", rows="careless")
STUDENT = Run(name="student", rows="student", pairs=False, settings={"train": {"epochs": 2}})
CHECKED = {
    "rewards": [{"metric": "exact"}, {"metric": "json"}],
    "grpo": {"num_generations": 6, "max_completion_length": 80},
}
"""An answer is worth 1 if it is exact, and the F1 of its fields beside."""


def _preferred(name: str, rows: str = "pairs") -> Stage:
    run = Run(name=name, rows=rows, start="sft", settings={"objective": name})
    return Stage((CARELESS, run), (Claim(name, PAIRS, "sft"), Claim(name, CLEAN, "sft")))


STAGES: dict[str, Stage] = {
    "grpo": Stage(
        (CARELESS, Run(name="grpo", rows="prompts", start="sft", settings={"objective": "grpo"} | CHECKED)),
        (Claim("grpo", EXACT, "sft"), Claim("grpo", CLEAN, "sft")),
    ),
    "distillation": Stage(
        (
            Run(name="teacher", rows="teacher", pairs=False),
            STUDENT,
            Run(
                name="distillation",
                rows="student",
                teacher="teacher",
                pairs=False,
                settings={"objective": "distillation", "train": {"epochs": 2}},
            ),
        ),
        (Claim("distillation", EXACT, "student"), Claim("distillation", LOSS, "student")),
    ),
    "reward": Stage(
        (CARELESS, Run(name="reward", rows="pairs", start="sft", settings={"objective": "reward"})),
        (Claim("reward", PAIRS, None), Claim("reward", PAIRS, "sft")),
    ),
    "dpo": _preferred("dpo"),
    "kto": _preferred("kto", "labels"),
    "grpo-clean": Stage(
        (
            STUDENT,
            Run(
                name="grpo-clean",
                rows="prompts",
                start="student",
                pairs=False,
                settings={"objective": "grpo"} | CHECKED,
            ),
        ),
        (Claim("grpo-clean", EXACT, "student"), Claim("grpo-clean", FIELDS, "student")),
    ),
    "orpo": _preferred("orpo"),
    "cpo": _preferred("cpo"),
    "simpo": _preferred("simpo"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What one run came to."""

    name: str
    seed: int
    values: dict[str, list[float]]
    """By measure, a number for each held-out row."""
    train_seconds: float
    """Seconds of the run's steps, over all that it took to end it."""
    seconds: float
    """Seconds of everything: loading, training, judging. Where the run was gone on with, those before are its steps'.
    """
    processor_seconds: float
    """Processor time of what this process did of it."""
    learning_rate: float
    steps: int
    tokens: int


def configuration(run: Run, files: Mapping[str, Path], model: str, folder: Path, seed: int) -> RunConfig:
    """The settings of a run."""
    values: dict[str, Any] = {
        "model": model,
        "output": str(folder / run.name),
        "method": "lora",
        **run.settings,
        "data": {"file": str(files[run.rows])},
        "train": {"seed": seed, "examples_per_step": 4, **run.settings.get("train", {})},
    }
    if run.start is not None:
        values["train"]["from_adapter"] = str(folder / run.start)
    if run.teacher is not None:
        values["distillation"] = {"teacher_adapter": str(folder / run.teacher)}
    return RunConfig.model_validate(values)


def measure(run: Run, files: Mapping[str, Path], model: str, folder: Path, seed: int) -> Measured:
    """Train and judge, or read what was measured before with these settings and rows."""
    config = configuration(run, files, model, folder, seed)
    done = folder / run.name / MEASURED
    read = (run.rows, "held-out rows", "held-out pairs")
    rows = {name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in read}
    settings = {"config": config.model_dump(mode="json"), "rows": rows}
    if done.is_file():
        before = json.loads(done.read_text(encoding="utf-8"))
        if before["settings"] == settings:
            return Measured(**before["measured"])
    begun, processor = time.perf_counter(), time.process_time()
    resumed = RunFolder(folder / run.name).resumable
    ended = train(config, resume=resumed)
    trained = time.perf_counter()
    scores = config.objective is ObjectiveName.REWARD
    values = scored_pairs(Path(ended.output), files, model) if scores else judge(run, ended, files, model)
    now, steps = time.perf_counter(), ended.progress.seconds
    recorded = RunFolder(ended.output).config()
    assert recorded is not None
    found = Measured(
        name=run.name,
        seed=seed,
        values=values,
        train_seconds=round(steps, 1),
        seconds=round(now - trained + steps if resumed else now - begun, 1),
        processor_seconds=round(time.process_time() - processor, 1),
        learning_rate=float(recorded.train.learning_rate),
        steps=ended.progress.step,
        tokens=ended.progress.tokens,
    )
    done.write_text(json.dumps({"settings": settings, "measured": asdict(found)}, indent=1) + "\n", encoding="utf-8")
    return found


def judge(run: Run, ended: RunResult, files: Mapping[str, Path], model: str) -> dict[str, list[float]]:
    """The greedy answers to held-out messages, and held-out pairs by their likelihood."""
    assert isinstance(ended.trainable, AdapterTraining)
    assistant = make_assistant(ended.model, open_checkpoint(model), ended.trainable.adapter)
    records = read_records(files["held-out rows"])
    scores = score_rows(assistant, prepare(assistant, records), emit=ignore)
    references = [record.messages[-1]["content"] for record in records]
    losses = [one.loss_sum / one.supervised for one in scores]
    rejected = rejected_losses(assistant, files["held-out pairs"]) if run.pairs else []
    preferred = [float(chosen < other) for chosen, other in zip(losses, rejected, strict=run.pairs)]
    return {
        **({PAIRS: preferred} if run.pairs else {}),
        CLEAN: [float(is_clean(one.answer or "", right)) for one, right in zip(scores, references, strict=True)],
        EXACT: [one.exact or 0.0 for one in scores],
        FIELDS: [one.fields or 0.0 for one in scores],
        LOSS: losses,
    }


def rejected_losses(assistant: Assistant, file: Path) -> list[float]:
    """The cross-entropy a token of each pair's rejected answer. The chosen ones are the held-out rows' answers."""
    records = [to_pair(row, f"{file}:{number}").rejected for number, row in enumerate(read_lines(file), start=1)]
    found = encode_all(records, assistant.tokenizer, max_length=None, overlong=Overlong.DROP)
    return [loss / count for loss, count in example_losses(assistant.model, found.examples)]


def scored_pairs(adapter: Path, files: Mapping[str, Path], model: str) -> dict[str, list[float]]:
    """1 for each held-out pair whose chosen answer a reward model gives the higher score, 0 for the others."""
    judging = open_reward_model(model, adapter)
    pairs = [to_pair(row, "held-out pairs") for row in read_lines(files["held-out pairs"])]
    scores = judging.scores_of([record for one in pairs for record in one.records])
    return {PAIRS: [float(one > other) for one, other in zip(scores[::2], scores[1::2], strict=True)]}


def interval(seeds: Sequence[Sequence[float]], name: str = EXACT) -> tuple[float, float]:
    """95 % of a share, of which each seed has a number for each row: over seeds where there are several (Student), over
    rows where there is one."""
    if len(seeds) == 1:
        measure_of_rows = mean_of(name, list(seeds[0]))
        assert measure_of_rows is not None, "there are no held-out rows"
        (found,) = describe([measure_of_rows])
        return found.low, found.high
    means = [statistics.fmean(values) for values in seeds]
    mean, half = statistics.fmean(means), quantile(0.975, len(means) - 1) * statistics.stdev(means)
    half /= math.sqrt(len(means))
    return max(0.0, mean - half), min(1.0, mean + half)


def compared(claim: Claim, results: Sequence[Measured]) -> Comparison | None:
    """The difference that a claim is of, with its interval; None where its runs are not all there."""
    own = {one.seed: _measures(one, claim.measure) for one in results if one.name == claim.run}
    other = {one.seed: _measures(one, claim.measure) for one in results if one.name == claim.against}
    if claim.against is None:
        # A judge by chance is right about half of each pair.
        chance = mean_of(claim.measure, [0.5] * len(own[min(own)][0].counts)) if own else None
        other = {seed: [chance] for seed in own if chance is not None}
    seeds = sorted(own.keys() & other.keys())
    if not seeds:
        return None
    (found,) = contrast_seeds([other[seed] for seed in seeds], [own[seed] for seed in seeds])
    return found


def _measures(one: Measured, name: str) -> list[Measure]:
    found = mean_of(name, one.values[name], scale=None if name == LOSS else SHARE)
    return [] if found is None else [found]


def verdict(claim: Claim, found: Comparison) -> str:
    """Whether a claim shows."""
    low, high = (-found.high, -found.low) if claim.measure == LOSS else (found.low, found.high)
    return "shown" if low > 0 else "the opposite shows" if high < 0 else "does not show at this size"


def runs_table(results: Sequence[Measured]) -> str:
    """A Markdown table, a run a line."""
    head = ("run", "seeds", *TITLES.values(), "rate", "steps", "s of steps", "s in all", "s of processor")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in dict.fromkeys(one.name for one in results):
        own = [one for one in results if one.name == name]
        cells = [name, str(len(own))]
        for measure_name in TITLES:
            if measure_name not in own[0].values:
                cells.append("–")
                continue
            means = [statistics.fmean(one.values[measure_name]) for one in own]
            if measure_name == LOSS:
                cells.append(f"{statistics.fmean(means):.3f}")
                continue
            low, high = interval([one.values[measure_name] for one in own], measure_name)
            cells.append(f"{statistics.fmean(means):.1%} ({low:.1%} to {high:.1%})")
        cells += [f"{own[0].learning_rate:.2g}", str(own[0].steps)]
        for seconds in ("train_seconds", "seconds", "processor_seconds"):
            cells.append(f"{statistics.fmean([getattr(one, seconds) for one in own]):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def claims_table(stages: Sequence[str], results: Sequence[Measured]) -> str:
    """A Markdown table, a claim a line."""
    head = ("run", "beside", "measure", "difference (95 %)", "verdict")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for claim in (claim for stage in stages for claim in STAGES[stage].claims):
        found = compared(claim, results)
        if found is None:
            continue
        form = "+.3f" if claim.measure == LOSS else "+.1%"
        difference = f"{found.difference:{form}} ({found.low:{form}} to {found.high:{form}})"
        cells = (claim.run, claim.against or "chance", TITLES[claim.measure], difference, verdict(claim, found))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train, judge, print."""
    sizes = Sizes()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stages", default=",".join(STAGES), help="which, with commas, in this order")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", type=int, default=sizes.careless, help="rows of careless fine-tuning")
    parser.add_argument("--pairs", type=int, default=sizes.pairs, help="messages of pairs, labels and prompts")
    parser.add_argument("--teacher-rows", type=int, default=sizes.teacher)
    parser.add_argument("--student-rows", type=int, default=sizes.student)
    parser.add_argument("--eval-rows", type=int, default=sizes.held_out)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/preferences"))
    options = parser.parse_args()
    stages = options.stages.split(",")
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        parser.error(f"no stage is called {', '.join(unknown)}; there are {', '.join(STAGES)}")
    sizes = Sizes(
        careless=options.rows,
        pairs=options.pairs,
        teacher=options.teacher_rows,
        student=options.student_rows,
        held_out=options.eval_rows,
    )
    begun, results = time.perf_counter(), list[Measured]()
    for seed in range(options.seeds):
        folder = options.output / f"seed-{seed}"
        files = write_tasks(folder, sizes, seed)
        for stage in stages:
            for run in STAGES[stage].runs:
                if any(one.name == run.name and one.seed == seed for one in results):
                    continue
                results.append(measure(run, files, bundled_model(), folder, seed))
                done = json.dumps([asdict(one) for one in results], indent=1)
                (options.output / "results.json").write_text(done + "\n", encoding="utf-8")
            print(f"\nseed {seed}, {stage}, {time.perf_counter() - begun:.0f} s since the start\n")
            print(runs_table(results), claims_table(stages, results), sep="\n\n", flush=True)
        whole = sum(one.seconds for one in results if one.seed == seed)
        print(f"\nseed {seed}: {whole:.0f} s in all, over every call that it took", flush=True)


if __name__ == "__main__":
    main()
