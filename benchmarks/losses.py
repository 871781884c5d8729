"""How far bfloat16 training strays: losses of TRL + PEFT and of veneer against a plain float32 run.

Usage: python benchmarks/losses.py [--steps N] [--data rows.jsonl]

All three train LoRA (rank 16, alpha 32, all linear layers, learning rate 2e-4) from the same adapter on the same tokens
with the same mask in the same order: veneer draws the adapter and encodes the rows, the others read both. The base is
the same bfloat16 weights for all; the float32 run computes with them, and with everything else, in float32. Two rows a
step by default, not eight, for the sake of time. Writes the curves as SVG and prints the mean absolute difference of
each to the float32 run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from peers.launch import BUILD, OWN, TRL, Unavailable, choose_data, model_folder, run, write_rows
from peers.measure import ALPHA, MAX_LENGTH, RANK, Step

from veneer.adapters.files.store import save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.data.encoded.encoding import encode_all
from veneer.data.records import read_records
from veneer.enums import Overlong
from veneer.html.charts import Series, line_chart
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model

REFERENCE, PEER, OWN_NAME = "float32", "TRL+PEFT bf16", "veneer bf16"
SEED = 0
"""Of the adapter; what run_veneer.py trains with."""


def write_start(model: Path, folder: Path) -> None:
    """Write veneer's initial adapter in PEFT's format."""
    folder.mkdir(parents=True, exist_ok=True)
    decoder = load_model(open_checkpoint(model), Loading(dtype=torch.bfloat16))
    save_adapter(folder, inject(decoder, LoraSpec(rank=RANK, alpha=ALPHA), seed=SEED), base=str(model))


def write_tokens(model: Path, rows: Path, path: Path) -> None:
    """Write the rows as veneer encodes them: ids, and which of them are targets.

    Raises:
        ValueError: a row was left out, so that the runs would not train the same rows.
    """
    records = read_records(rows)
    tokenizer = open_checkpoint(model).tokenizer()
    examples = encode_all(records, tokenizer, max_length=MAX_LENGTH, overlong=Overlong.TRUNCATE).examples
    if len(examples) != len(records):
        raise ValueError(
            f"{len(records) - len(examples)} of {len(records)} rows train nothing within {MAX_LENGTH} tokens"
        )
    lines = [
        json.dumps({"input_ids": one.tokens.tolist(), "completion_mask": one.loss_mask.astype(int).tolist()})
        for one in examples
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def mean_difference(losses: Sequence[float], reference: Sequence[float]) -> float:
    """Mean absolute difference, step by step."""
    return statistics.fmean(abs(one - other) for one, other in zip(losses, reference, strict=True))


def train(args: argparse.Namespace) -> dict[str, list[Step]]:
    """The steps of every run, by name.

    Raises:
        Unavailable: a peer cannot be installed or run.
        ValueError: the data has too few rows, or the runs did not train the same tokens.
    """
    TRL.install()
    rows = write_rows(choose_data(args.data, print), args.steps * args.rows_per_step, BUILD / "loss-rows.jsonl")
    model = model_folder(print)
    adapter, tokens = BUILD / "adapter", BUILD / "loss-tokens.jsonl"
    write_start(model, adapter)
    write_tokens(model, rows, tokens)
    common = {"model": model, "steps": args.steps, "rows_per_step": args.rows_per_step}
    common |= {"threads": args.threads, "quantized": False}
    runs = {
        OWN_NAME: (OWN, "run_veneer.py", {"rows": rows}),
        REFERENCE: (TRL, "run_reference.py", {"rows": tokens, "adapter": adapter}),
        PEER: (TRL, "run_trl.py", {"rows": tokens, "adapter": adapter}),
    }
    steps = {}
    for name, (environment, script, own) in runs.items():
        print(f"training: {name}", flush=True)
        steps[name] = run(environment, script, f"losses-{script.removesuffix('.py')}", **common, **own).record.steps
    for name, trained in steps.items():
        if [(step.tokens, step.supervised) for step in trained] != [
            (step.tokens, step.supervised) for step in steps[REFERENCE]
        ]:
            raise ValueError(f"{name} did not train the tokens that the {REFERENCE} run did")
    return steps


def write_charts(losses: dict[str, list[float]], folder: Path) -> list[Path]:
    """The curves, and their distances from the reference, as SVG files."""

    def points(values: Sequence[float]) -> list[tuple[float, float]]:
        return [(float(step), value) for step, value in enumerate(values, start=1)]

    names = (REFERENCE, PEER, OWN_NAME)
    differences = {
        name: [abs(one - other) for one, other in zip(losses[name], losses[REFERENCE], strict=True)]
        for name in names[1:]
    }
    charts = {
        "losses.svg": ("Loss of the same steps", "loss (nats)", [Series(n, points(losses[n])) for n in names]),
        "loss-differences.svg": (
            f"Distance from the {REFERENCE} run",
            "difference (nats)",
            # The reference keeps the first colour in both charts.
            [Series(REFERENCE, points([0.0] * len(losses[REFERENCE])))]
            + [Series(name, points(values)) for name, values in differences.items()],
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, (title, label, series) in charts.items():
        (folder / file).write_text(line_chart(title, "step", label, series), encoding="utf-8")
    return [folder / file for file in charts]


def main() -> None:
    """Train, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="JSONL of question and answer, or of messages")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rows-per-step", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=BUILD, help="folder of the SVG files and losses.json")
    args = parser.parse_args()
    if min(args.steps, args.rows_per_step, args.threads) < 1:
        parser.error("steps, rows a step and threads must be at least 1")
    try:
        steps = train(args)
    except (Unavailable, OSError, ValueError) as problem:
        sys.exit(f"losses: {problem}")
    losses = {name: [step.loss for step in trained] for name, trained in steps.items()}
    charts = write_charts(losses, args.output)
    (args.output / "losses.json").write_text(json.dumps(losses, indent=1) + "\n", encoding="utf-8")
    reference = steps[REFERENCE]
    print(
        f"{args.steps} steps of {args.rows_per_step} rows, {sum(step.tokens for step in reference):,} tokens, "
        f"{sum(step.supervised for step in reference):,} supervised, {args.threads} threads; "
        f"{REFERENCE} loss {reference[0].loss:.4f} at first, {reference[-1].loss:.4f} at last"
    )
    print(f"charts: {', '.join(os.path.relpath(chart) for chart in charts)}")
    for name in (PEER, OWN_NAME):
        difference = mean_difference(losses[name], losses[REFERENCE])
        print(f"{name}: mean absolute difference to {REFERENCE} {difference:.6f}")


if __name__ == "__main__":
    main()
