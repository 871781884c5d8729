"""What a processor's float32 peak allows: the tokens a second that answers cannot go beyond in float32 products.

A token takes two operations a weight that it meets: tokens of prompts meet the layers, the last one of a prompt and
those of answers the head too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from veneer.io.checkpoint import Checkpoint

SHARE = 0.6
"""The share of the peak that 32 answers at once are to reach, where that is less than three times llama.cpp's rate."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ROUNDS = 50_000_000
"""Turns of the loop whose operations are the peak: about a tenth of a second."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Tokens a second at the float32 peak."""

    peak: float
    """Operations a second of all threads."""
    whole: float
    """Answers with their prompts."""
    following: float
    """The tokens that follow the first ones alone."""


def float_peak(threads: int, variant: str | None = None) -> float | None:
    """Operations a second of the float32 kernels' instructions, from registers alone; None where they do not run."""
    import torch

    from veneer.native import library

    if variant is not None:
        library.use_variant(variant)
    native = library.kernels()
    if native is None:
        return None
    times = []
    for _ in range(5):
        start = time.perf_counter()
        operations = native.peak(torch.float32, ROUNDS, 1)
        times.append(time.perf_counter() - start)
    return threads * operations / min(times)


def allowed(model: str, prompts: Sequence[str], tokens: int, peak: float) -> Allowed:
    """What a peak allows of answers to prompts, so many tokens each."""
    from veneer.io.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(model)
    layers, head = matrix_weights(checkpoint)
    tokenizer = checkpoint.tokenizer()
    prompt = sum(len(tokenizer.encode(prompt)) for prompt in prompts) / len(prompts)
    return Allowed(peak, *most_tokens(peak, tokens, prompt, layers, head))


def most_tokens(peak: float, tokens: int, prompt: float, layers: int, head: int) -> tuple[float, float]:
    """Tokens a second that a peak in operations a second allows, of answers with their prompts, and of what follows the
    first tokens.

    Args:
        peak: operations a second.
        tokens: of an answer. The last one is never computed with, and the first one comes of the prompt.
        prompt: tokens of a prompt.
        layers, head: weights of all layers, and of the head.
    """
    following = 2 * (tokens - 1) * (layers + head)
    whole = following + 2 * (prompt * layers + head)
    return tokens * peak / whole, (tokens - 1) * peak / following


def matrix_weights(checkpoint: Checkpoint) -> tuple[int, int]:
    """Weights of all layers' matrices, and of the head."""
    names = set(checkpoint.names())
    layers = sum(math.prod(shape) for name in names - {EMBEDDING, HEAD} if len(shape := checkpoint.shape(name)) == 2)
    # A tied head is the embedding.
    return layers, math.prod(checkpoint.shape(HEAD if HEAD in names else EMBEDDING))
