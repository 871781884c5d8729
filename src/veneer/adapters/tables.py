"""Embedding and head with more rows than the base has: for tokens that were added to the vocabulary.

The rows of the base stay where they are; what is added stands behind them, and is of no meaning until it is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.model.decoder import DenseLinear, Embedding
from veneer.model.language import LanguageModel


@dataclass(frozen=True, slots=True)
class Tables:
    """What a model had, to be put back."""

    embedding: nn.Module
    head: nn.Module
    vocab: int

    @classmethod
    def of(cls, model: LanguageModel) -> Tables:
        """Those of a model as it is."""
        return cls(model.embedding, model.lm_head, model.spec.vocab_size)

    def put_back(self, model: LanguageModel) -> None:
        """Give the model these again."""
        model.set_embeddings(self.embedding, self.head, self.vocab)


def grow(model: LanguageModel, rows: int) -> None:
    """Give embedding and head `rows` rows, if they have fewer. A new row is the mean of the others: a token that the
    model neither expects nor is surprised by."""
    if rows > model.spec.vocab_size:
        weights: dict[str, Tensor] = {EMBEDDING: _weight(model.embedding)}
        if not model.spec.tied_head:
            weights[HEAD] = _weight(model.lm_head)
        set_embeddings(model, {path: _with_means(weight, rows) for path, weight in weights.items()})


def set_embeddings(model: LanguageModel, tables: Mapping[str, Tensor]) -> None:
    """Put other weights in the place of embedding and head; where they are tied either stands for both.

    Args:
        model: without an adapter.
        tables: `[rows, dim]` by path.
    """
    if not tables:
        return
    device, dtype, tied = model.device, _weight(model.embedding).dtype, model.spec.tied_head
    embedding, head, vocab = model.embedding, model.lm_head, model.spec.vocab_size
    for path, weight in tables.items():
        parameter = nn.Parameter(weight.to(device, dtype), requires_grad=False)
        if path == EMBEDDING or tied:
            embedding, vocab = Embedding(parameter), len(parameter)
        if path == HEAD or tied:
            head = DenseLinear(parameter)
    model.set_embeddings(embedding, head, vocab)


def _with_means(weight: Tensor, rows: int) -> Tensor:
    mean = weight.detach().mean(0, dtype=torch.float32).to(weight.dtype)
    return torch.cat((weight.detach(), mean.expand(rows - len(weight), -1)))


def _weight(table: nn.Module) -> Tensor:
    return table.get_parameter("weight")
