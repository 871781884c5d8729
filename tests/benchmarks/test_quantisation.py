"""The quality table's own arithmetic: bits, round trips that stand there for comparison alone, rows up to a limit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from veneer.io.checkpoint import open_checkpoint

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Scripts, not a package.
sys.path.insert(0, str(BENCHMARKS))
try:
    import quantisation
finally:
    sys.path.remove(str(BENCHMARKS))

BITS = {
    "bfloat16": 16.0, "int8": 8 + 32 / 1024, "NF4": 4.5, "NF4, double": 4.127, "FP4": 4.5, "FP4, double": 4.127,
    "int4": 4.5, "int4, double": 4.127,
}  # fmt: skip


@pytest.mark.parametrize("name", quantisation.ROUND_TRIPS)
def test_bits_are_those_of_codes_and_scales(name: str) -> None:
    weight = torch.randn(512, 1024).bfloat16()
    held = quantisation.ROUND_TRIPS[name](weight)
    assert held.decoded.shape == weight.shape
    assert 8 * held.bytes / weight.numel() == pytest.approx(BITS[name], abs=1e-3)


def test_int4_rounds_to_the_nearest_of_fifteen_levels() -> None:
    weight = torch.randn(8, 64)
    steps = weight.abs().amax(1, keepdim=True) / 7
    decoded = quantisation.int4(double_quant=False)(weight).decoded
    assert bool(((decoded - weight).abs() <= 0.50001 * steps).all())
    torch.testing.assert_close(decoded, (weight / steps).round() * steps)


def test_rows_are_the_first_ones_up_to_the_limit(tiny_model: Path, tmp_path: Path) -> None:
    rows = {
        "forgetting/lambada_openai.jsonl": {"context": "one two three", "continuation": "four"},
        "forgetting/boolq.jsonl": {"query": "Passage: five. Question: six?"},
        "gsm8k/test.jsonl": {"question": "What is it?", "answer": "seven"},
    }
    for name, row in rows.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for _ in range(50)))
    found = quantisation.texts(tmp_path, open_checkpoint(tiny_model).tokenizer(), 100)
    assert list(found) == ["LAMBADA", "BoolQ", "GSM8K"]
    for examples in found.values():
        lengths = [len(one.tokens) for one in examples]
        assert lengths
        assert sum(lengths[:-1]) < 100
    assert not found["GSM8K"][0].loss_mask[1:].all()
    assert found["LAMBADA"][0].loss_mask[1:].all()
