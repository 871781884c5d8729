"""Whether two commits train and export the same bytes, and whether the second opens what the first has left.

    python benchmarks/same_bytes.py OLD NEW              two commits, or folders that hold a checkout
    python benchmarks/same_bytes.py OLD . --only dora    one case (the option may be repeated)

Makes tiny models and rows, runs every case by the command lines of both, and compares the weight files (safetensors
and GGUF) byte for byte. Then NEW resumes runs of OLD that were killed, makes runs of OLD again from their `run.lock`,
scores an adapter of OLD, and goes on with a sweep of OLD. No digests are stored: they would hold for one processor.

Exit code 0: everything is the same. Exit code 1: something differs, or failed; a refusal is shown with its reason. Both
sides run at the same time, with one thread each unless the case says otherwise; all cases take some minutes on two
cores. For the models transformers is needed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors import safe_open
from same_bytes_inputs import write_inputs

ROOT = Path(__file__).parents[1]
STEPS = 12


@dataclass(frozen=True, slots=True)
class Run:
    """A training run that both sides make."""

    model: str
    """A name of `same_bytes_inputs.MODELS`."""
    method: str
    settings: tuple[str, ...]
    """What is given by `--set`, over the settings that runs have else."""

    def command(self, folder: str, *, steps: int = STEPS) -> list[str]:
        """The command line that trains into `folder`."""
        settings = (
            "compute.device=cpu", "train.examples_per_step=6", "train.save_every=4", f"train.steps={steps}",
            "train.learning_rate=0.005", "lora.rank=4", "compute.threads=1", "train.seed=3", *self.settings,
        )  # fmt: skip
        given = dict(setting.split("=", 1) for setting in settings)
        command = ["train", "--model", f"../inputs/models/{self.model}", "--data", "../inputs/rows.jsonl"]
        command += ["--method", self.method, "--held-out", "0.1", "--output", folder]
        return command + [word for key, value in given.items() for word in ("--set", f"{key}={value}")]


RUNS: dict[str, Run] = {
    "lora": Run("llama", "lora", ("compute.dtype=float32",)),
    "lora-bfloat16": Run("llama", "lora", ("compute.dtype=bfloat16",)),
    "lora-threads": Run("gemma2", "lora", ("compute.dtype=bfloat16", "compute.threads=2")),
    "lora-products": Run("llama", "lora", ("compute.dtype=bfloat16", "compute.products=int8")),
    "qlora": Run("llama", "qlora", ("compute.dtype=bfloat16",)),
    "qlora-int8": Run("qwen2", "qlora", ("compute.dtype=float32", "quant.scheme=int8")),
    "full": Run("llama", "full", ("compute.dtype=bfloat16", "train.learning_rate=0.001")),
    "full-adafactor": Run("gemma2", "full", ("compute.dtype=float32", "train.optimizer=adafactor")),
    "hf-lora": Run("neox", "lora", ("backend=hf", "compute.dtype=float32")),
    "hf-qlora": Run("neox", "qlora", ("backend=hf", "compute.dtype=bfloat16")),
    "mixture-lora": Run("mixture", "lora", ("compute.dtype=float32",)),
    "mixture-qlora": Run("mixture", "qlora", ("compute.dtype=bfloat16", "lora.target_modules=[q_proj, down_proj]")),
    "dora": Run("llama", "qlora", ("compute.dtype=bfloat16", "lora.variant=dora")),
    "rslora-pissa": Run("qwen2", "lora", ("compute.dtype=float32", "lora.scaling=rslora", "lora.init=pissa")),
    "eva": Run("llama", "lora", ("compute.dtype=float32", "lora.init=eva")),
    "dropout-recompute": Run(
        "llama", "qlora", ("compute.dtype=bfloat16", "lora.dropout=0.2", "compute.recompute=layers")
    ),
    "saved-modules": Run("qwen2", "lora", ("compute.dtype=float32", "lora.modules_to_save=[lm_head]", "lora.bias=all")),
    "new-tokens": Run("llama", "lora", ("compute.dtype=float32", "lora.new_tokens=[<crate-9>]")),
    "small-passes": Run(
        "llama", "lora", ("compute.dtype=bfloat16", "compute.micro_batch_tokens=128", "train.optimizer=adamw8bit")
    ),
    "lora-plus": Run("qwen2", "qlora", ("compute.dtype=bfloat16", "train.lora_plus_ratio=4", "train.optimizer=lion")),
}
EXPORTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "export-merged": ("lora-bfloat16", ("--to", "merged", "--dtype", "bfloat16")),
    "export-merged-qlora": ("qlora", ("--to", "merged", "--dtype", "float32")),
    "export-gguf": ("lora-bfloat16", ("--to", "gguf", "--quant", "q8_0")),
    "export-peft": ("dora", ("--to", "peft")),
}
"""Name of a case to the run whose adapter is exported, and options."""
GRID = ("--grid", "lora.rank=2,4", "--grid", "train.learning_rate=0.001,0.01")
KILLED = ("qlora", "full", "dropout-recompute")
"""Runs that are killed in between and resumed: by the commit that began them, and by NEW."""
LONG = 160
"""Steps of a run that is killed: its first checkpoint must come long before its last."""
REOPENED = ("lora", "full", "hf-lora", "mixture-qlora")
"""Runs of OLD that NEW makes again from `run.lock`."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two programs."""

    name: str
    source: Path
    """A checkout with `src/veneer`."""
    work: Path
    """Where its commands run; all paths in them are relative to it, so that both sides are given the same words."""

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start `veneer COMMAND` in a process of its own."""
        environment = {**os.environ, "PYTHONPATH": str(self.source / "src"), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "veneer", *command],
            cwd=self.work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *command: str) -> str | None:
        """Run `veneer COMMAND` to its end; what it said if it failed, else None."""
        process = self.start(*command)
        _, said = process.communicate()
        return None if process.returncode == 0 else f"exit code {process.returncode}: {said.strip()[-1500:]}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of a case."""

    case: str
    verdict: str
    """`same`, `differs`, `failed`, or `refused` (by both, as an option that this machine lacks is)."""
    detail: str

    def good(self) -> bool:
        """Whether nothing is wrong."""
        return self.verdict in ("same", "refused")


def weight_files(folder: Path) -> dict[str, Path]:
    """The weight files below a folder by their relative paths, without those of checkpoints."""
    found = (path for kind in ("safetensors", "gguf") for path in sorted(folder.rglob(f"*.{kind}")))
    return {name: path for path in found if "checkpoints/" not in (name := path.relative_to(folder).as_posix())}


def compared(case: str, old: Path, new: Path) -> Outcome:
    """The weight files of two folders, byte for byte."""
    ours, theirs = weight_files(old), weight_files(new)
    if not ours or set(ours) != set(theirs):
        return Outcome(case, "differs", f"weight files {sorted(ours)} and {sorted(theirs)}")
    lines = [f"{name}: {where}" for name in ours if (where := difference(ours[name], theirs[name]))]
    size = sum(path.stat().st_size for path in ours.values())
    return Outcome(case, "differs" if lines else "same", "; ".join(lines) or f"{len(ours)} files, {size:,} bytes")


def difference(old: Path, new: Path) -> str:
    """Where two weight files differ, or the empty string."""
    if old.read_bytes() == new.read_bytes():
        return ""
    if old.suffix != ".safetensors":
        return "other bytes"
    with safe_open(old, "pt") as ours, safe_open(new, "pt") as theirs:
        names = sorted(ours.keys())
        if names != sorted(theirs.keys()):
            return f"tensors only on one side: {sorted(set(names) ^ set(theirs.keys()))[:6]}"
        gaps: dict[str, float] = {}
        for name in names:
            a, b = ours.get_tensor(name), theirs.get_tensor(name)
            if a.shape != b.shape or a.dtype != b.dtype:
                return f"{name}: {a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}"
            if gap := float((a.double() - b.double()).abs().max()):
                gaps[name] = gap
    worst = max(gaps, key=gaps.__getitem__, default="")
    return f"{len(gaps)} of {len(names)} tensors, {worst} by {gaps[worst]:.3g}" if gaps else "metadata or order alone"


class Cases:
    """All cases over two sides; each method yields what came out."""

    def __init__(self, old: Side, new: Side, only: Sequence[str]):
        self.old, self.new, self.only = old, new, only

    def wanted(self, case: str) -> bool:
        """Whether a case was asked for."""
        return not self.only or case in self.only

    def outcomes(self) -> Iterator[Outcome]:
        """Run everything."""
        needed = {run for case, (run, _) in EXPORTS.items() if self.wanted(case)}
        needed |= {run for run in REOPENED if self.wanted(f"reproduce-{run}")}
        needed |= {"lora"} if self.wanted("evaluate-lora") else set()
        for name, run in RUNS.items():
            if self.wanted(name) or name in needed:
                yield self.both(name, run.command(name))
        for name, (run_name, options) in EXPORTS.items():
            if self.wanted(name):
                rows = ("--data", "../inputs/test.jsonl", "--limit", "2")
                yield self.both(name, ["export", "--adapter", run_name, "--output", name, *options, *rows])
        if self.wanted("sweep"):
            sweep = sweep_command()
            yield self.both("sweep", sweep)
            yield self.reopened("sweep-again", "sweep", lambda: self.new.call(*sweep))
        for name in KILLED:
            if self.wanted(f"killed-{name}"):
                yield from self.killed(name)
        for name in REOPENED:
            if self.wanted(f"reproduce-{name}"):
                yield self.reopened(f"reproduce-{name}", name, partial(self.new.call, "reproduce", name))
        if self.wanted("evaluate-lora"):
            command = ("evaluate", "--model", "../inputs/models/llama", "--adapter", "lora", "--data")
            said = partial(self.new.call, *command, "../inputs/test.jsonl", "--max-new-tokens", "4")
            yield self.reopened("evaluate-lora", "lora", said)

    def both(self, case: str, command: Sequence[str]) -> Outcome:
        """Let both sides make `case` at the same time, and compare."""
        with ThreadPoolExecutor(2) as pool:
            old, new = pool.map(lambda side: side.call(*command), (self.old, self.new))
        if old and new and "exit code 2" in old and "exit code 2" in new:
            return Outcome(case, "refused", f"by both: {new}")
        if old or new:
            return Outcome(case, "failed", f"OLD: {old or 'done'}; NEW: {new or 'done'}")
        return compared(case, self.old.work / case, self.new.work / case)

    def killed(self, name: str) -> Iterator[Outcome]:
        """Kill the run of both in between; each resumes its own, and NEW the one of OLD: all like OLD's whole run."""
        case, command = f"killed-{name}", RUNS[name].command(f"killed-{name}", steps=LONG)
        with ThreadPoolExecutor(2) as pool:
            problems = list(pool.map(lambda side: kill(side, command, case), (self.old, self.new)))
        if any(problems):
            yield Outcome(case, "failed", f"OLD: {problems[0]}; NEW: {problems[1]}")
            return
        crossed = f"{case}-crossed"
        shutil.copytree(self.old.work / case, self.new.work / crossed)
        yield self.both(case, [*command, "--resume"])
        output = command.index("--output") + 1
        other = [*command[:output], crossed, *command[output + 1 :], "--resume"]
        said = self.new.call(*other)
        compare = compared(crossed, self.old.work / case, self.new.work / crossed)
        yield Outcome(crossed, "failed", said) if said else compare
        whole = RUNS[name].command(f"{case}-whole", steps=LONG)
        said = self.old.call(*whole)
        compare = compared(f"{case}-whole", self.old.work / f"{case}-whole", self.old.work / case)
        yield Outcome(f"{case}-whole", "failed", said) if said else compare

    def reopened(self, case: str, run: str, command: Callable[[], str | None]) -> Outcome:
        """Put OLD's folder in the place of NEW's and let NEW work on it; its weights must stay as they were."""
        shutil.rmtree(self.new.work / run, ignore_errors=True)
        shutil.copytree(self.old.work / run, self.new.work / run)
        said = command()
        return Outcome(case, "failed", said) if said else compared(case, self.old.work / run, self.new.work / run)


def sweep_command() -> list[str]:
    """The command line of the sweep."""
    settings = ("train.steps=6", "train.examples_per_step=6", "compute.dtype=bfloat16", "compute.threads=1")
    command = ["sweep", "--model", "../inputs/models/llama", "--data", "../inputs/rows.jsonl", "--method", "lora"]
    command += ["--held-out", "0.1", "--device", "cpu", "--output", "sweep", *GRID]
    return command + [word for setting in settings for word in ("--set", setting)]


def kill(side: Side, command: Sequence[str], folder: str) -> str | None:
    """Start a run and kill it after its first checkpoints; what went wrong, or None."""
    process = side.start(*command)
    checkpoints = side.work / folder / "checkpoints"
    end = time.monotonic() + 300
    while process.poll() is None and len(list(checkpoints.glob("step-*"))) < 2 and time.monotonic() < end:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    if process.returncode == -signal.SIGKILL:
        return None
    return f"ended with exit code {process.returncode} before it was killed: {said.strip()[-500:]}"


@contextmanager
def checkout(given: str, folder: Path) -> Iterator[Path]:
    """A folder with the sources of a commit and its kernels, compiled; a folder that holds a checkout as it is."""
    if (Path(given) / "src" / "veneer").is_dir():
        yield Path(given).resolve()
        return
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), given], check=True)
    try:
        build = folder / "src" / "veneer" / "native" / "build.py"
        subprocess.run([sys.executable, str(build)], check=True, stdout=subprocess.DEVNULL)
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare two commits."""
    parser = argparse.ArgumentParser(description="Whether two commits train and export the same bytes.")
    parser.add_argument("old", help="commit, or folder of a checkout")
    parser.add_argument("new", help="commit, or folder of a checkout")
    parser.add_argument("--only", action="append", default=[], help="a case to run (may be repeated; default: all)")
    parser.add_argument("--keep", type=Path, help="leave the runs in this new folder")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        work = options.keep or Path(scratch) / "work"
        write_inputs(work / "inputs")
        with (
            checkout(options.old, Path(scratch) / "old") as old,
            checkout(options.new, Path(scratch) / "new") as new,
        ):
            before, after = Side("old", old, work / "old"), Side("new", new, work / "new")
            for side in (before, after):
                side.work.mkdir()
            outcomes = []
            for outcome in Cases(before, after, options.only).outcomes():
                print(f"{outcome.case:32} {outcome.verdict:8} {outcome.detail}", flush=True)
                outcomes.append(outcome)
    count = {verdict: sum(one.verdict == verdict for one in outcomes) for verdict in ("same", "refused")}
    wrong = len(outcomes) - sum(count.values())
    print(f"{count['same']} the same, {count['refused']} refused by both, {wrong} different or failed")
    return 0 if count["same"] and not wrong else 1


if __name__ == "__main__":
    # Asked to stop, it leaves no worktree behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
