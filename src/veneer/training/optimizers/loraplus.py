"""LoRA+ (Hayou et al., 2024, arXiv:2402.12354): B learns faster than A.

With one rate for both, A and B of a wide model cannot both learn features. In the paper's theory B's rate is a multiple
of A's that grows with the width; its experiments find a ratio of about 16, with a smaller rate for A.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from veneer.adapters.files.names import EMBEDDING_A, EMBEDDING_B

EMBEDDING_RATE = 1e-6
"""The peak rate of an embedding's factors under LoRA+: a fixed number in the authors' code and in PEFT's."""


def is_embedding_factor(name: str) -> bool:
    """Whether the parameter is a factor of an embedding's update."""
    return name.endswith((f".{EMBEDDING_A}", f".{EMBEDDING_B}"))


def rate_factors(parameters: Mapping[str, Tensor], *, ratio: float, learning_rate: float) -> dict[str, float]:
    """Each parameter's learning rate as a multiple of `learning_rate`, in the groups of PEFT's LoRA+ optimiser.

    B and every vector (biases, norms, DoRA magnitudes) get `ratio`, an embedding's two factors get EMBEDDING_RATE, and
    everything else gets 1. A ratio of 1 is plain LoRA: all get 1, including an embedding's factors.

    Args:
        parameters: the parameters by PEFT's names.
        ratio: B's rate over A's.
        learning_rate: A's peak rate.
    """
    if ratio == 1.0:
        return dict.fromkeys(parameters, 1.0)
    factors = {}
    for name, tensor in parameters.items():
        if is_embedding_factor(name):
            factors[name] = EMBEDDING_RATE / learning_rate
        else:
            factors[name] = ratio if "lora_B" in name or tensor.ndim == 1 else 1.0
    return factors
