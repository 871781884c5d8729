"""What `veneer quantize` shows: the tensor that is read now, and what was written."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.markup import escape

from veneer.config import QuantSection
from veneer.quantization import quantize
from veneer.screens.console import console


def quantize_visibly(model: str, output: Path, quant: QuantSection, dtype: str, *, as_json: bool) -> None:
    """Quantise under a spinner that names the tensor being read, and say what came of it."""
    screen = console()
    with screen.status(escape(f"quantising {model}")) as status:
        done = quantize(
            model,
            output,
            quant=quant,
            dtype=dtype,
            progress=lambda name: status.update(escape(f"quantising {model}: {name}")),
        )
    if as_json:
        facts = {
            "output": str(done.output), "quant": done.quant.model_dump(mode="json"), "layers": done.layers,
            "dense": list(done.dense), "weights": done.weights, "bits": done.bits, "bytes": done.bytes,
        }  # fmt: skip
        click.echo(json.dumps(facts, indent=2))
        return
    kept = f", {len(done.dense)} kept dense" if done.dense else ""
    click.echo(
        f"{done.output}: {done.layers} linear layers in {done.quant.scheme.value}, {done.bits:.2f} bits a weight"
        f"{kept}; {done.bytes / 1e6:,.0f} MB with all that stays dense"
    )
