"""The floor of a LoRA step: the matrix products that it cannot do without, at the rate at which they run by themselves.

Counted are, for every micro-batch of T tokens of which S are supervised:

- each adapted linear layer's forward product and its input's gradient, both over T tokens. The first layer's q, k and v
  read the frozen embedding, so nothing asks for their input's gradient;
- the six products of each adapter: x Aᵀ, (x Aᵀ) Bᵀ, their two gradients of A and B, and the two that lead to x;
- the head's scores over S tokens and their gradient.

Attention, norms, activations, the optimiser and every copy count as nothing. Each product is timed as a `torch.mm` of
its own shape and layout in the run's dtype, weights and results warm in the cache. veneer's own product adds LoRA's
update in the same pass and is somewhat faster than that, so the floor is a yardstick and no strict bound.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor


class Layout(Enum):
    """Which of the two factors is stored transposed."""

    PLAIN = "a b"
    SECOND = "a bᵀ"
    FIRST = "aᵀ b"


@dataclass(frozen=True, slots=True)
class Product:
    """`[rows, inner]` times `[inner, columns]`."""

    rows: int
    inner: int
    columns: int
    layout: Layout

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.rows * self.inner * self.columns


def linear_layers(config: Mapping[str, Any]) -> list[tuple[int, int, bool]]:
    """Inputs and outputs of every adapted layer, and whether its input has a gradient, from a Llama's config.json."""
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    heads = int(config["num_attention_heads"])
    head = int(config.get("head_dim") or hidden // heads)
    queries, keys = heads * head, int(config.get("num_key_value_heads") or heads) * head
    layers = []
    for layer in range(int(config["num_hidden_layers"])):
        layers += [(hidden, out, layer > 0) for out in (queries, keys, keys)]
        layers += [(queries, hidden, True), (hidden, inner, True), (hidden, inner, True), (inner, hidden, True)]
    return layers


def products(config: Mapping[str, Any], rank: int, tokens: int, supervised: int) -> Counter[Product]:
    """Every product of one micro-batch, with how often it is done."""
    found: Counter[Product] = Counter()
    for inputs, outputs, gradient in linear_layers(config):
        found[Product(tokens, inputs, outputs, Layout.SECOND)] += 1  # x Wᵀ
        found[Product(tokens, inputs, rank, Layout.SECOND)] += 1  # x Aᵀ
        found[Product(tokens, rank, outputs, Layout.SECOND)] += 1  # (x Aᵀ) Bᵀ
        found[Product(tokens, outputs, rank, Layout.PLAIN)] += 1  # dy B
        found[Product(rank, tokens, inputs, Layout.FIRST)] += 1  # (dy B)ᵀ x
        found[Product(outputs, tokens, rank, Layout.FIRST)] += 1  # dyᵀ (x Aᵀ)
        if gradient:
            found[Product(tokens, outputs, inputs, Layout.PLAIN)] += 1  # dy W
            found[Product(tokens, rank, inputs, Layout.PLAIN)] += 1  # (dy B) A
    hidden, vocabulary = int(config["hidden_size"]), int(config["vocab_size"])
    found[Product(supervised, hidden, vocabulary, Layout.SECOND)] += 1
    found[Product(supervised, vocabulary, hidden, Layout.PLAIN)] += 1
    return found


def seconds(product: Product, rounds: int, dtype: torch.dtype = torch.bfloat16) -> float:
    """Median time of one product, after one that warms up."""
    first, second = (product.rows, product.inner), (product.inner, product.columns)
    a = _matrix(first, product.layout is Layout.FIRST, dtype)
    b = _matrix(second, product.layout is Layout.SECOND, dtype)
    out = torch.empty(product.rows, product.columns, dtype=dtype)
    torch.mm(a, b, out=out)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _matrix(shape: tuple[int, int], transposed: bool, dtype: torch.dtype) -> Tensor:
    if transposed:
        return torch.randn(shape[::-1]).to(dtype).T
    return torch.randn(shape).to(dtype)


def floor_seconds(
    config: Mapping[str, Any],
    rank: int,
    micro_batches: Iterable[tuple[int, int]],
    measure: Callable[[Product], float] = lambda product: seconds(product, rounds=5),
) -> float:
    """The floor of a step whose micro-batches have so many (tokens, supervised tokens); each shape is timed once."""
    counts: Counter[Product] = Counter()
    for tokens, supervised in micro_batches:
        counts += products(config, rank, tokens, supervised)
    return sum(count * measure(product) for product, count in counts.items())
