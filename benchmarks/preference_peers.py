"""veneer and TRL + PEFT side by side on preferences and rewards: the same model, rows, order and settings.

Usage: python benchmarks/preference_peers.py [--objectives dpo,kto,grpo] [--steps N] [--rounds N] [--threads N]
       [--trl FOLDER]

SmolLM2-135M-Instruct, LoRA of rank 16 on all linear layers, bfloat16, the bundled claims (`preference_tasks.py`). Every
run is a process of its own, the systems take turns, and the first step is not counted. TRL runs twice: as it comes,
with activations recomputed, and with all of them kept, which is faster and takes more memory. Its reference is a
forward pass in each step; veneer's is one before the first, of which each step is charged its share. A token counts as
often as it stands in a row, or in a prompt with its sampled answer, whether or not it is computed more than once, or
shared.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compare import Entry, System, progress
from peers.launch import BUILD, OWN, TRL, Environment, Unavailable, model_folder, run
from preference_tasks import Sizes, read_lines, write_tasks

FILES = {"dpo": "pairs", "kto": "labels", "grpo": "prompts"}
"""Which of the tasks' files each objective trains on."""
VENEER = "veneer"


def systems(trl: Environment) -> tuple[System, ...]:
    """Those that are compared, veneer first."""
    script = "run_trl_preferences.py"
    return (
        System(VENEER, OWN, "run_veneer_preferences.py"),
        System("TRL+PEFT", trl, script, checkpointing=True),
        System("TRL+PEFT keeping all", trl, script),
    )


def asked(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as GRPO takes it: the prompt, and the right answer in a column."""
    *before, last = row["messages"]
    return {"prompt": before, "answer": last["content"]}


def write_rows(objective: str, count: int, folder: Path) -> Path:
    """So many rows of an objective.

    Raises:
        ValueError: there are not so many.
    """
    sizes = Sizes(careless=1, pairs=count, teacher=1, student=1, held_out=1)
    rows = read_lines(write_tasks(folder / "tasks", sizes, seed=0)[FILES[objective]])[:count]
    path = folder / f"{objective}.jsonl"
    lines = [json.dumps(asked(row) if objective == "grpo" else row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def measure(args: argparse.Namespace, say: Callable[[str], None]) -> dict[str, dict[str, Entry]]:
    """Run all systems in turn, objective by objective, round after round."""
    compared = systems(TRL if args.trl is None else Environment(args.trl.resolve(), None))
    compared[1].environment.install()
    model = model_folder(say, [compared[1].environment])
    found: dict[str, dict[str, Entry]] = {}
    for objective in args.objectives:
        rows = write_rows(objective, (args.steps + 1) * args.rows_per_step, BUILD)
        found[objective] = {one.name: Entry() for one in compared}
        for number in range(1, args.rounds + 1):
            for system in compared:
                label = f"{system.name}-{objective}".replace(" ", "-")
                try:
                    one = run(
                        system.environment,
                        system.script,
                        f"{label}-{number}",
                        model=model,
                        rows=rows,
                        steps=args.steps + 1,
                        rows_per_step=args.rows_per_step,
                        threads=args.threads,
                        quantized=False,
                        checkpointing=system.checkpointing,
                        objective=objective,
                    )
                except Unavailable as problem:
                    found[objective][system.name].problems.append(f"round {number}: {problem}")
                    say(f"{label}: {problem}")
                    continue
                found[objective][system.name].runs.append(one)
                say(progress(number, args.rounds, label, one))
    return found


def table(found: Mapping[str, Mapping[str, Entry]]) -> str:
    """Medians of the rounds in Markdown, and veneer as a multiple of each."""
    head = ("objective", "system", "tokens/s", "tokens/CPU s", "peak memory", "veneer's speed", "per CPU s", "memory")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for objective, entries in found.items():
        own = entries[VENEER].median() if entries[VENEER].runs else None
        for name, entry in entries.items():
            if not entry.runs:
                lines.append(f"| {objective} | {name} | not run |" + " |" * 5)
                continue
            one = entry.median()
            cells = [objective, name, f"{one.tokens_per_second:,.0f}", f"{one.tokens_per_cpu_second:,.0f}"]
            cells.append(f"{one.peak_rss_mb:,.0f} MB")
            if own is None or name == VENEER:
                cells += ["", "", ""]
            else:
                cells.append(f"{own.tokens_per_second / one.tokens_per_second:.1f} ×")
                cells.append(f"{own.tokens_per_cpu_second / one.tokens_per_cpu_second:.1f} ×")
                cells.append(f"{own.peak_rss_mb / one.peak_rss_mb:.2f} ×")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def counts(found: Mapping[str, Mapping[str, Entry]]) -> list[str]:
    """Tokens of each step, as each system counts them."""
    return [
        f"{objective}, {name}: tokens of the steps {[step.tokens for step in entry.runs[0].record.steps]}"
        for objective, entries in found.items()
        for name, entry in entries.items()
        if entry.runs
    ]


def main(words: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", type=lambda names: names.split(","), default=list(FILES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="counted steps of a run, after one that is not")
    parser.add_argument("--rows-per-step", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trl", type=Path, metavar="FOLDER", help="a virtual environment that has TRL already")
    args = parser.parse_args(words)
    unknown = [name for name in args.objectives if name not in FILES]
    if unknown:
        parser.error(f"no objective is called {', '.join(unknown)}; there are {', '.join(FILES)}")
    found = measure(args, lambda text: print(text, flush=True))
    print(
        f"\n{args.rounds} rounds of {args.steps} counted steps of {args.rows_per_step} rows, {args.threads} threads\n"
    )
    print(table(found), *counts(found), sep="\n")


if __name__ == "__main__":
    main()
