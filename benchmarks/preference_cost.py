"""What DPO and KTO take beside fine-tuning on the same tokens: time of a step and peak memory, each run by itself.

    OMP_NUM_THREADS=1 nice python benchmarks/preference_cost.py --rounds 5
    OMP_NUM_THREADS=1 nice python benchmarks/preference_cost.py --rounds 5 --prompt 144 --objectives kto,kto-apart
    OMP_NUM_THREADS=1 nice python benchmarks/preference_cost.py --allocated --objectives sft,dpo,kto,orpo,simpo
    OMP_NUM_THREADS=1 nice python benchmarks/preference_cost.py --allocated --micro-batch 1024

Every round trains a random model several times, in processes of their own: fine-tuning on all answers, DPO on the pairs
of them, KTO on all answers with labels. A step has the same answers each time, and the reference is there before the
first one. Prompts are short unless it is said otherwise (a tenth of a row), so that hardly anything is saved by sharing
them. `kto-apart` has as many tokens as `kto`, and no two answers to one prompt. Times are those of the processor, which
other programs move less than a clock's. Ratios are those of one round, and their medians are printed.

The memory of a process moves by some percent from run to run, and micro-batches of as many tokens at most hold
different numbers of them. With `--allocated` memory is the peak of what torch has allocated, to the byte, and times
are those of a profiler. A step is one micro-batch then, unless `--micro-batch` says otherwise, in which the objectives
other than `sft` lay common prompts once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median
from typing import Any

from plan_cases import Case
from plan_grid import prepare

PAIRS, IN_STEP, STEPS, LENGTH = 24, 4, 5, 192
"""Pairs of the file, those of a step, steps, and tokens of an answer with its prompt."""
OBJECTIVES = ("sft", "dpo", "kto")
OF_PAIRS = ("dpo", "orpo", "cpo", "simpo")
APART = "kto-apart"
CASE = Case("m30", "lora", "float32", LENGTH, 16, "never", 1024)


def write_rows(folder: Path, length: int) -> None:
    """The same answers as rows of fine-tuning, as pairs, and with labels, behind prompts of so many tokens: random
    digits, a token each."""
    source = random.Random(0)
    files: dict[str, list[dict[str, Any]]] = {name: [] for name in (*OBJECTIVES, APART)}
    for number in range(PAIRS):
        prompt = f"{number:03d}" + "".join(source.choices("0123456789", k=length))
        answers = ["".join(source.choices("0123456789", k=LENGTH - len(prompt) - 24)) for _ in range(2)]
        files["dpo"].append({"prompt": prompt, "chosen": answers[0], "rejected": answers[1]})
        rows = [{"prompt": prompt, "completion": answer} for answer in answers]
        files["sft"] += rows
        files["kto"] += [row | {"label": at == 0} for at, row in enumerate(rows)]
        files[APART] += [row | {"label": at == 0, "prompt": f"{at}{row['prompt'][1:]}"} for at, row in enumerate(rows)]
    files |= dict.fromkeys(OF_PAIRS, files["dpo"])
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")


def run(name: str, folder: Path, micro_batch: int, *, allocated: bool) -> dict[str, float]:
    """Train in this process: the median processor seconds of a step, without the first one, and the peak memory in MB,
    of the process or as `allocated` by torch."""
    from torch.profiler import profile

    from veneer.config import parse
    from veneer.events import Event, StepDone
    from veneer.training.run import train

    at: list[float] = []
    objective = name.removesuffix("-apart")

    def note(event: Event) -> None:
        if isinstance(event, StepDone):
            at.append(time.process_time())

    with tempfile.TemporaryDirectory() as output:
        values = {
            "model": str(folder / "m30-llama"), "output": output, "method": CASE.method, "objective": objective,
            "data": {"file": str(folder / f"{name}.jsonl")},
            "train": {"steps": STEPS, "examples_per_step": IN_STEP if objective in OF_PAIRS else 2 * IN_STEP},
            "compute": {
                "device": "cpu", "dtype": CASE.dtype, "recompute": CASE.recompute,
                "micro_batch_tokens": micro_batch, "memory_limit_mb": 10**6,
            },
        }  # fmt: skip
        with profile(profile_memory=True) if allocated else nullcontext() as profiler:
            result = train(parse(values, where="the benchmark"), emit=note)
    steps = [after - before for before, after in pairwise(at)]
    return {"seconds": median(steps), "memory": peak_mb(profiler) if profiler else result.peak_memory_mb}


def peak_mb(profiler: Any) -> float:
    """The most that torch had allocated on the processor while it was watched, in MB."""
    found, events = [], list(profiler.profiler.kineto_results.experimental_event_tree())
    while events:
        event = events.pop()
        events += event.children
        if event.tag.name == "Allocation":
            found.append((event.start_time_ns, event.extra_fields.alloc_size))
    return max(accumulate(size for _, size in sorted(found, key=lambda one: one[0]))) / 1e6


def main() -> None:
    """Make the rounds and print the medians of their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--allocated", action="store_true", help="memory as torch allocates it, a step at a time")
    parser.add_argument("--micro-batch", type=int, help=f"tokens at most; {CASE.micro_batch}, or a step as allocated")
    parser.add_argument("--prompt", type=int, default=LENGTH // 10, help=f"tokens of a prompt, of {LENGTH} of a row")
    parser.add_argument(
        "--objectives",
        type=lambda names: names.split(","),
        default=list(OBJECTIVES),
        help="with commas; ratios are to the first",
    )
    options = parser.parse_args()
    micro_batch = options.micro_batch or (10**5 if options.allocated else CASE.micro_batch)
    if options.run:
        print(json.dumps(run(options.run, options.folder, micro_batch, allocated=options.allocated)))
        return
    rounds: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(CASE, folder)
        write_rows(folder, options.prompt)
        for _ in range(options.rounds):
            rounds.append({})
            for name in options.objectives:
                arguments = [sys.executable, __file__, "--run", name, "--folder", temporary]
                arguments += ["--micro-batch", str(micro_batch), *(["--allocated"] if options.allocated else [])]
                done = subprocess.run(arguments, env=dict(os.environ), capture_output=True, text=True, check=True)
                rounds[-1][name] = json.loads(done.stdout.splitlines()[-1])
            print(json.dumps(rounds[-1]), flush=True)
    first, *others = options.objectives
    for name in others:
        for what in ("seconds", "memory"):
            ratios = [one[name][what] / one[first][what] for one in rounds]
            spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
            print(f"{name} / {first}, {what}: {median(ratios):.3f} ({spread}, {len(ratios)} rounds)")


if __name__ == "__main__":
    main()
