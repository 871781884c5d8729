"""What each format may cost: constants, measured on SmolLM2-135M-Instruct with a margin (docs/exports.md has both).

float32 is not measured but set: nothing is rounded that matters, so that what exceeds it is a fault. The others are
three times what `python benchmarks/parity.py` measured, rounded up; fp4's are twice nf4's. Written in a float type or
in bitsandbytes' formats, a tensor is the expected one rounded once and compared bit for bit; a GGUF type's codes are
chosen by search, so that its tensors are held to three times the measured error of the worst one.
"""

from __future__ import annotations

from veneer.exports.certificate import Threshold

THRESHOLDS: dict[str, Threshold] = {
    "float32": Threshold(gap=1e-3, divergence=1e-4, tensor=0.0),
    "bfloat16": Threshold(gap=0.8, divergence=3e-4, tensor=0.0),
    "float16": Threshold(gap=0.11, divergence=1e-5, tensor=0.0),
    "q8_0": Threshold(gap=3.0, divergence=3.5e-3, tensor=0.02),
    "q4_0": Threshold(gap=27.0, divergence=0.45, tensor=0.32),
    "q4_k_m": Threshold(gap=17.0, divergence=0.07, tensor=0.16),
    "nf4": Threshold(gap=23.0, divergence=0.32, tensor=0.0),
    "fp4": Threshold(gap=46.0, divergence=0.64, tensor=0.0),
}
"""By format: the dtype of dense weights, a GGUF type, or what linear layers are packed in."""
