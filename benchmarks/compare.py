"""veneer, TRL + PEFT (+ bitsandbytes) and Unsloth's CPU path side by side: the same model, rows, order and settings.

Usage: make bench [DATA=rows.jsonl], or python benchmarks/compare.py --help

LoRA and QLoRA (NF4 with double quantisation), rank 16, alpha 32, all linear layers, 8 rows a step, at most 512 tokens a
row, the answer alone supervised, learning rate 2e-4, two threads. All compute in bfloat16 where the instructions have
products of it, and in float32 elsewhere, where torch's products of bfloat16 are slower; `--dtype` takes the other one.
`--variant avx2` holds all systems to narrower instructions than the processor's: veneer by its kernels, torch and its
libraries by their own settings (bitsandbytes has none).

Every run is a process of its own; systems take turns, so that what else the machine does hits all alike. A step counts
from the end of the one before it; the first is not counted. Tokens are real ones, without padding. TRL keeps its
activations; Unsloth runs twice, as it comes (it recomputes them) and with all of them kept, which is faster and takes
three times the memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peers.launch import (
    BUILD,
    HELD,
    OWN,
    TRL,
    UNSLOTH,
    Environment,
    Run,
    Unavailable,
    choose_data,
    model_folder,
    run,
    write_rows,
)
from peers.measure import Step
from rich.console import Console
from rich.table import Table

METHODS = {"LoRA": False, "QLoRA": True}
"""Name, and whether the base is quantised."""
BUSY = 0.1
"""Cores used by other programs from which a run's times are in doubt."""


@dataclass(frozen=True, slots=True)
class System:
    """One of the compared."""

    name: str
    environment: Environment
    script: str
    checkpointing: bool = False
    """Recompute activations in backward (Unsloth); veneer decides by itself."""


VENEER = System("veneer", OWN, "run_veneer.py")
PEERS = (
    System("TRL+PEFT", TRL, "run_trl.py"),
    System("Unsloth keeping all", UNSLOTH, "run_unsloth.py"),
    System("Unsloth", UNSLOTH, "run_unsloth.py", checkpointing=True),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run, reduced to what the table shows."""

    tokens_per_second: float
    tokens_per_cpu_second: float
    peak_rss_mb: float
    floor: float | None
    """The floor's share of the steps' wall time."""


@dataclass(slots=True)
class Entry:
    """All runs of one system by one method, and why others are missing."""

    runs: list[Run] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def median(self) -> Measured:
        """Medians over the rounds."""
        rounds = [measured(one) for one in self.runs]
        floors = [one.floor for one in rounds if one.floor is not None]
        return Measured(
            statistics.median(one.tokens_per_second for one in rounds),
            statistics.median(one.tokens_per_cpu_second for one in rounds),
            statistics.median(one.peak_rss_mb for one in rounds),
            statistics.median(floors) if floors else None,
        )


Results = dict[str, dict[str, Entry]]
"""By method and system."""


def measured(one: Run) -> Measured:
    """Rates over all steps but the first."""
    steps = one.record.steps[1:]
    tokens, wall = sum(step.tokens for step in steps), sum(step.wall for step in steps)
    floors = one.record.more.get("floor")
    return Measured(
        tokens / wall,
        tokens / sum(step.cpu for step in steps),
        one.record.peak_rss_mb,
        sum(floors) / wall if floors else None,
    )


def ratios(results: Results) -> str:
    """The last line: veneer against each peer, QLoRA against LoRA, memory against Unsloth, LoRA against its floor."""
    parts = [f"{method} {', '.join(against(entries))}" for method, entries in results.items()]
    lora, qlora = (entries[VENEER.name] for entries in results.values())
    if lora.runs and qlora.runs:
        parts.append(f"QLoRA/LoRA {qlora.median().tokens_per_second / lora.median().tokens_per_second:.2f}")
    memory = [memory_ratio(entries, "Unsloth") for entries in results.values()]
    if all(memory):
        parts.append(f"peak RSS {'/'.join(memory)} Unsloth")
    floor = lora.median().floor if lora.runs else None
    if floor is not None:
        parts.append(f"floor {100 * floor:.0f} %")
    return "ratios: " + "; ".join(parts)


def against(entries: dict[str, Entry]) -> list[str]:
    """veneer's speed as a multiple of every peer's, by one method."""
    own = entries[VENEER.name]
    if not own.runs:
        return [f"{VENEER.name} not run"]
    return [
        f"{own.median().tokens_per_second / entry.median().tokens_per_second:.1f}x {name}"
        if entry.runs
        else f"{name} not run"
        for name, entry in reversed(entries.items())
        if name != VENEER.name
    ] or ["alone"]


def memory_ratio(entries: dict[str, Entry], peer: str) -> str:
    """veneer's peak memory as a multiple of a peer's, or nothing where one did not run."""
    own, other = entries[VENEER.name], entries.get(peer)
    if other is None or not (own.runs and other.runs):
        return ""
    return f"{own.median().peak_rss_mb / other.median().peak_rss_mb:.2f}x"


def disagreements(results: Results) -> list[str]:
    """Steps for which systems counted other numbers of tokens than veneer, though all have the same rows."""
    found = []
    for method, entries in results.items():
        counts = {
            name: [step.tokens for step in entry.runs[0].record.steps] for name, entry in entries.items() if entry.runs
        }
        for name, tokens in counts.items():
            if tokens != counts.get(VENEER.name, tokens):
                found.append(f"{method}: tokens of the steps are {tokens} in {name}, {counts[VENEER.name]} in veneer")
    return found


def table(results: Results) -> Table:
    """Medians of all systems."""
    columns = ("method", "system", "tokens/s", "tokens/CPU s", "peak RSS", "veneer's speed", "per CPU s", "memory")
    made = Table(title="medians of the rounds; the right half is veneer as a multiple of each")
    for column in columns:
        made.add_column(column, justify="left" if column in columns[:2] else "right")
    for method, entries in results.items():
        own = entries[VENEER.name].median() if entries[VENEER.name].runs else None
        for name, entry in entries.items():
            if not entry.runs:
                made.add_row(method, name, "not run")
                continue
            one = entry.median()
            cells = [f"{one.tokens_per_second:,.0f}", f"{one.tokens_per_cpu_second:,.0f}", f"{one.peak_rss_mb:,.0f} MB"]
            if own is not None and name != VENEER.name:
                cells.append(f"{own.tokens_per_second / one.tokens_per_second:.2f}x")
                cells.append(f"{own.tokens_per_cpu_second / one.tokens_per_cpu_second:.2f}x")
                cells.append(f"{own.peak_rss_mb / one.peak_rss_mb:.2f}x")
            made.add_row(method, name, *cells)
        made.add_section()
    return made


def compare(args: argparse.Namespace, systems: Sequence[System], screen: Console) -> Results:
    """Install, then run all systems in turn, round after round."""

    def say(text: str) -> None:
        screen.print(text, markup=False, highlight=False, soft_wrap=True)

    rows = write_rows(choose_data(args.data, say), (args.steps + 1) * args.rows_per_step, BUILD / "rows.jsonl")
    results: Results = {method: {system.name: Entry() for system in systems} for method in METHODS}
    for system in systems:
        say(f"installing what {system.name} needs")
        try:
            system.environment.install()
        except Unavailable as problem:
            for entries in results.values():
                entries[system.name].problems.append(f"cannot be installed: {problem}")
    say("preparing the model")
    model = model_folder(say)
    for number in range(1, args.rounds + 1):
        for method, quantized in METHODS.items():
            for system in systems:
                entry = results[method][system.name]
                if entry.problems:
                    continue
                label = f"{system.name}-{method}"
                try:
                    one = run(
                        system.environment,
                        system.script,
                        f"{label.replace(' ', '-')}-{number}",
                        model=model,
                        rows=rows,
                        steps=args.steps + 1,
                        rows_per_step=args.rows_per_step,
                        threads=args.threads,
                        quantized=quantized,
                        checkpointing=system.checkpointing,
                        floor=system is VENEER and not quantized,
                        dtype=args.dtype,
                        variant=args.variant,
                    )
                except Unavailable as problem:
                    entry.problems.append(f"round {number}: {problem}")
                    say(f"round {number}/{args.rounds}: {label} failed")
                    continue
                entry.runs.append(one)
                say(progress(number, args.rounds, label, one))
    return results


def progress(number: int, rounds: int, label: str, one: Run) -> str:
    """A line for a run that has just ended."""
    values = measured(one)
    others = "" if one.others is None or one.others < BUSY else f", others used {one.others:.1f} cores meanwhile"
    return (
        f"round {number}/{rounds}: {label} {values.tokens_per_second:,.0f} tokens/s, "
        f"{values.peak_rss_mb:,.0f} MB{others}"
    )


def show(results: Results, args: argparse.Namespace, screen: Console) -> None:
    """Everything that a reader needs to judge the ratios, and those last."""
    screen.print(table(results))

    def say(text: str) -> None:
        screen.print(text, markup=False, highlight=False, soft_wrap=True)

    for name, used in versions(results).items():
        say(f"{name}: {', '.join(f'{package} {number}' for package, number in used.items())}")
    held = "the processor's own" if args.variant is None else args.variant
    say(f"{args.rounds} rounds of {args.steps} counted steps of {args.rows_per_step} rows, {args.threads} threads")
    say(f"computed in {args.dtype}, instructions: {held}")
    for method, entries in results.items():
        for name, entry in entries.items():
            for problem in entry.problems:
                say(f"{name}, {method}, {'in part' if entry.runs else 'not run'}: {problem}")
    for line in disagreements(results):
        say(line)
    others = [one.others for _, one in every(results) if one.others is not None]
    if others and statistics.median(others) >= BUSY:
        say(
            f"other programs used {statistics.median(others):.1f} cores in the median run, "
            f"{max(others):.1f} at most: the times are in doubt"
        )
    say(ratios(results))


def every(results: Results) -> list[tuple[str, Run]]:
    """All runs with the names of their systems."""
    return [(name, one) for entries in results.values() for name, entry in entries.items() for one in entry.runs]


def versions(results: Results) -> dict[str, dict[str, str]]:
    """What each system ran with."""
    return {name: one.record.versions for name, one in every(results)}


def plain(results: Results, args: argparse.Namespace) -> dict[str, Any]:
    """Everything as values for JSON."""

    def steps(values: Sequence[Step]) -> list[dict[str, Any]]:
        return [asdict(step) for step in values]

    return {
        "settings": {"rounds": args.rounds, "steps": args.steps, "rows_per_step": args.rows_per_step}
        | {"threads": args.threads, "data": None if args.data is None else str(args.data)}
        | {"dtype": args.dtype, "variant": args.variant},
        "versions": versions(results),
        "results": [
            {
                "method": method,
                "system": name,
                "problems": entry.problems,
                "median": asdict(entry.median()) if entry.runs else None,
                "runs": [
                    {**asdict(measured(one)), "others": one.others, "steps": steps(one.record.steps)} | one.record.more
                    for one in entry.runs
                ],
            }
            for method, entries in results.items()
            for name, entry in entries.items()
        ],
        "disagreements": disagreements(results),
        "ratios": ratios(results),
    }


def suitable_dtype(variant: str | None) -> str:
    """bfloat16 where the instructions, by default the best of this processor, have products of it; else float32."""
    from veneer.native.library import runnable_variants

    best = variant or next(iter(runnable_variants()), None)
    return "bfloat16" if best == "avx512bf16" else "float32"


def main() -> None:
    """Run, show and write."""
    names = [system.name for system in PEERS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="JSONL of question and answer, or of messages")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="counted steps of a run, after one that is not")
    parser.add_argument("--rows-per-step", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", nargs="*", choices=names, default=names, help="compare with these alone")
    parser.add_argument("--variant", choices=HELD, help="hold all systems to these instructions")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="by default what suits the instructions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    args = parser.parse_args()
    if min(args.rounds, args.steps, args.rows_per_step, args.threads) < 1:
        parser.error("rounds, steps, rows a step and threads must be at least 1")
    args.dtype = args.dtype or suitable_dtype(args.variant)
    screen = Console(width=None if sys.stdout.isatty() else 120)
    try:
        results = compare(args, [VENEER, *(system for system in PEERS if system.name in args.peers)], screen)
    except (OSError, ValueError) as problem:
        parser.error(str(problem))
    if args.json is not None:
        args.json.write_text(json.dumps(plain(results, args), indent=1) + "\n", encoding="utf-8")
    show(results, args, screen)


if __name__ == "__main__":
    main()
