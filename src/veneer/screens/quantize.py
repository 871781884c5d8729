"""What `veneer quantize` shows: its progress, and what was written."""

from __future__ import annotations

from pathlib import Path

from veneer.config import QuantSection
from veneer.quantization import QuantizeResult, quantize
from veneer.screens.console import output_console, say
from veneer.screens.subscribers import subscriber_of


def quantize_visibly(model: str, output: Path, quant: QuantSection, dtype: str, *, as_json: bool) -> None:
    """Quantise under a progress bar, and print a summary."""
    with subscriber_of(as_json=as_json) as emit:
        done = quantize(model, output, quant=quant, dtype=dtype, subscribers=[emit])
    if not as_json:
        say(output_console(), summary(done))


def summary(done: QuantizeResult) -> str:
    """What was written, in one line."""
    kept = f", {len(done.dense)} kept dense" if done.dense else ""
    return (
        f"{done.output}: {done.layers} linear layers in {done.quant.scheme.value}, {done.bits:.2f} bits a weight"
        f"{kept}; {done.bytes / 1e6:,.0f} MB with all dense weights"
    )
