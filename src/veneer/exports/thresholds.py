"""The allowed differences between an export and the expected model.

Probabilities may differ as much as those of two programs that compute one model in float32: a quarter of a thousandth
of a nat was measured between llama.cpp and veneer on SmolLM2-135M-Instruct, and more than four times that is a fault.

A tensor holds what its format holds for the exact sums. That the format's own rounding is no larger than it should be
is checked too: three times the worst tensor's error on that model (`python benchmarks/parity.py`; docs/exports.md).
"""

from __future__ import annotations

from veneer.exports.certificate import Threshold

GAP, DIVERGENCE = 1e-3, 1e-4
"""The limits in nats: in the top ten, and of the mean KL divergence."""
TENSOR = {
    "float32": 0.0,
    "bfloat16": 0.0,
    "float16": 0.0,
    "q8_0": 0.02,
    "q4_0": 0.32,
    "q4_k_m": 0.16,
    "nf4": 0.0,
    "fp4": 0.0,
}
"""Largest relative error of a tensor by format: the dtype of dense weights, a GGUF type, or what linear layers are
packed in. 0 means that the format rounds a value once, or packs it exactly."""


def threshold_of(format: str, cost: float | None = None) -> Threshold:
    """The allowed differences in an export of a format; `cost` is the user's limit against the live adapter, in
    nats."""
    return Threshold(gap=GAP, divergence=DIVERGENCE, tensor=TENSOR[format], cost=cost)
