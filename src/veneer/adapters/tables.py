"""Embedding and head with more rows than the base has: for tokens that were added to the vocabulary.

The rows of the base stay where they are; what is added stands behind them, and is of no meaning until it is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.model.decoder import CausalLM, DenseLinear, Embedding


@dataclass(frozen=True, slots=True)
class Tables:
    """What a model had, to be put back."""

    embedding: nn.Module
    head: nn.Module
    vocab: int

    @classmethod
    def of(cls, model: CausalLM) -> Tables:
        """Those of a model as it is."""
        return cls(model.model.embed_tokens, model.lm_head, model.spec.vocab_size)

    def put_back(self, model: CausalLM) -> None:
        """Give the model these again."""
        model.model.embed_tokens, model.lm_head = self.embedding, self.head  # type: ignore[assignment]
        model.spec = replace(model.spec, vocab_size=self.vocab)


def grow(model: CausalLM, rows: int) -> None:
    """Give embedding and head `rows` rows, if they have fewer. A new row is the mean of the others: a token that the
    model neither expects nor is surprised by."""
    if rows > model.spec.vocab_size:
        weights: dict[str, Tensor] = {EMBEDDING: model.model.embed_tokens.weight}
        if not model.spec.tied_head:
            weights[HEAD] = _weight(model.lm_head)
        put_tables(model, {path: _with_means(weight, rows) for path, weight in weights.items()})


def put_tables(model: CausalLM, tables: Mapping[str, Tensor]) -> None:
    """Put other weights in the place of embedding and head; where they are tied either stands for both.

    Args:
        model: without an adapter.
        tables: `[rows, dim]` by path.
    """
    device, dtype, tied = model.device, model.model.embed_tokens.weight.dtype, model.spec.tied_head
    for path, weight in tables.items():
        parameter = nn.Parameter(weight.to(device, dtype), requires_grad=False)
        if path == EMBEDDING or tied:
            model.model.embed_tokens = Embedding(parameter)
            model.spec = replace(model.spec, vocab_size=len(parameter))
        if path == HEAD or tied:
            model.lm_head = DenseLinear(parameter)


def _with_means(weight: Tensor, rows: int) -> Tensor:
    mean = weight.detach().mean(0, dtype=torch.float32).to(weight.dtype)
    return torch.cat((weight.detach(), mean.expand(rows - len(weight), -1)))


def _weight(head: nn.Module) -> Tensor:
    assert isinstance(head, DenseLinear)
    return head.weight
