"""What each format may cost: constants, measured on SmolLM2-135M-Instruct with a margin (docs/exports.md has both).

float32 is not measured but set: nothing is rounded that matters, so that what exceeds it is a fault. The others are
three times what `python benchmarks/parity.py` measured. The bounds of tensors follow from the formats: written in a
float type, a tensor is the expected one rounded once and compared bit for bit; what is quantised in blocks is off by
the rounding of its codes, for which two and a half times the error of normally distributed weights is allowed.
"""

from __future__ import annotations

from veneer.exports.certificate import Threshold

THRESHOLDS: dict[str, Threshold] = {
    "float32": Threshold(gap=1e-3, divergence=1e-6, tensor=0.0),
    "bfloat16": Threshold(gap=0.5, divergence=5e-3, tensor=0.0),
    "float16": Threshold(gap=0.1, divergence=1e-3, tensor=0.0),
    "q8_0": Threshold(gap=0.6, divergence=1e-2, tensor=0.02),
    "q4_0": Threshold(gap=6.0, divergence=0.5, tensor=0.25),
    "q4_k_m": Threshold(gap=5.0, divergence=0.4, tensor=0.2),
    "nf4": Threshold(gap=6.0, divergence=0.5, tensor=0.0),
    "fp4": Threshold(gap=8.0, divergence=0.8, tensor=0.0),
}
"""By format: the dtype of dense weights, a GGUF type, or what linear layers are packed in."""
