"""What `veneer quantize` says of what it wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from veneer.config import QuantSection
from veneer.quantization import QuantizeResult
from veneer.screens.quantize import summary

DONE = QuantizeResult(
    output=Path("out"), quant=QuantSection(), layers=14, dense=(), weights=1000, packed_bytes=563, bytes=12_400_000
)


def test_the_summary_says_layers_bits_and_size() -> None:
    assert summary(DONE) == "out: 14 linear layers in nf4, 4.50 bits a weight; 12 MB with all dense weights"
    assert ", 2 kept dense;" in summary(replace(DONE, dense=("a", "b")))
