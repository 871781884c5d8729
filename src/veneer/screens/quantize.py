"""What `veneer quantize` shows: how far it is, and what was written."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from veneer.config import QuantSection
from veneer.events import Subscriber
from veneer.quantization import QuantizeResult, quantize
from veneer.screens.console import console, say
from veneer.screens.events import EventScreen
from veneer.screens.json_output import print_result


def quantize_visibly(model: str, output: Path, quant: QuantSection, dtype: str, *, as_json: bool) -> None:
    """Quantise under a bar, and say what came of it."""
    with EventScreen(console()) as screen:
        shown: list[Subscriber] = [screen, print_result] if as_json else [screen]
        done = quantize(model, output, quant=quant, dtype=dtype, subscribers=shown)
    if not as_json:
        say(Console(), summary(done))


def summary(done: QuantizeResult) -> str:
    """What was written, in a line."""
    kept = f", {len(done.dense)} kept dense" if done.dense else ""
    return (
        f"{done.output}: {done.layers} linear layers in {done.quant.scheme.value}, {done.bits:.2f} bits a weight"
        f"{kept}; {done.bytes / 1e6:,.0f} MB with all that stays dense"
    )
