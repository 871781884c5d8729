"""Peak memory of evaluations and exports, each in a process of its own, beside what is planned for it.

python benchmarks/task_memory.py [--shapes m8 m30 m135] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plan_cases import config_of
from plan_grid import write_rows

TASKS = ("evaluate", "peft", "merged", "merged-4bit", "gguf f16", "gguf q8_0", "gguf-adapter")
LENGTH = 256
"""Tokens of the longest row."""


def prepared(folder: Path, shape: str, method: str) -> tuple[Path, Path, Path]:
    """A random model, an adapter that was trained on it for a step, and its rows."""
    model, rows, run = folder / shape, folder / "rows.jsonl", folder / f"{shape}-{method}"
    if not rows.exists():
        write_rows(rows, LENGTH)
    if not model.exists():
        code = f"import pathlib, plan_grid; plan_grid.write_model(pathlib.Path({str(model)!r}), {shape!r}, 'llama')"
        environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    if not run.exists():
        words = ["train", "--model", model, "--data", rows, "--output", run, "--method", method]
        settings = ["train.steps=1", "lora.rank=8", "train.learning_rate=1e-4"]
        called([*map(str, words), *(word for one in settings for word in ("--set", one))])
    return model, rows, run


def called(words: Sequence[str]) -> float:
    """Run a command of veneer; its peak of resident memory in MB."""
    command = [sys.executable, "-c", PROGRAM, sys.executable, "-m", "veneer", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    code, peak = json.loads(done.stdout.splitlines()[-1])
    if code:
        raise SystemExit(f"{' '.join(words)}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    return float(peak)


PROGRAM = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print()
print(json.dumps([done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3]))
"""
"""Its own child alone counts here: a child's peak begins at the size of its parent."""


def measured(task: str, model: Path, rows: Path, run: Path, output: Path) -> float:
    """The peak of one task in MB."""
    if task == "evaluate":
        return called(["evaluate", "--model", str(model), "--adapter", str(run), "--data", str(rows), "--limit", "40"])
    to, _, quant = task.partition(" ")
    words = ["export", "--model", str(model), "--adapter", str(run), "--to", to, "--output", str(output)]
    words += ["--data", str(rows)] if to == "merged-4bit" else []
    return called([*words, *(["--quant", quant] if quant else [])])


def planned(task: str, model: Path, rows: Path, run: Path) -> float:
    """The plan of one task in MB."""
    from veneer.jobs.job import Job, JobKind
    from veneer.studio.task_plans import planned_task

    kind = JobKind.EVALUATE if task == "evaluate" else JobKind.EXPORT
    settings: dict[str, Any] = {"model": str(model), "adapter": str(run)}
    if kind is JobKind.EVALUATE:
        settings |= {"data": str(rows), "limit": 40}
    else:
        to, _, quant = task.partition(" ")
        settings |= {"to": to} | ({"quant": quant} if quant else {})
    plan = planned_task(Job(id="job", created_at=0.0, settings=settings, kind=kind))
    return (plan.peak or 0) / 1e6


def main() -> None:
    """Measure every task on every shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=["m8", "m30", "m135"])
    parser.add_argument("--methods", nargs="+", default=["lora", "qlora"])
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for shape in chosen.shapes:
            assert config_of(shape)
            for method in chosen.methods:
                files = prepared(folder, shape, method)
                for number, task in enumerate(TASKS):
                    output = folder / f"export-{shape}-{method}-{number}"
                    found, plan = measured(task, *files, output), planned(task, *files)
                    print(
                        f"{shape} {method} {task}: {found:,.0f} MB, planned {plan:,.0f}: {plan / found:.2f}", flush=True
                    )


if __name__ == "__main__":
    main()
