"""Resizes embedding and head for tokens that were added to the vocabulary.

The rows of the base stay as they are. New rows are added at the end; they have no meaning until they are trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.model.language import LanguageModel
from veneer.model.leaves import DenseLinear, Embedding
from veneer.tables import HoldsTable, TokenTable, copied_table


@dataclass(frozen=True, slots=True)
class EmbeddingSnapshot:
    """Embedding and head of a model, to restore them later."""

    embedding: nn.Module
    head: nn.Module
    vocab: int

    @classmethod
    def of(cls, model: LanguageModel) -> EmbeddingSnapshot:
        """Embedding and head of a model as it is now."""
        return cls(model.embedding, model.lm_head, model.spec.vocab_size)

    def restore(self, model: LanguageModel) -> None:
        """Give the model this embedding and head again."""
        model.set_embeddings(self.embedding, self.head, self.vocab)


def resize_embeddings(model: LanguageModel, rows: int) -> None:
    """Resize embedding and head to `rows` rows, if they have fewer. Each new row is the mean of the base's rows."""
    if rows > model.spec.vocab_size:
        tables = {EMBEDDING: _table(model.embedding)}
        if not model.spec.tied_head:
            tables[HEAD] = _table(model.lm_head)
        set_embeddings(model, {path: _with_means(table, rows) for path, table in tables.items()})


def set_embeddings(model: LanguageModel, weights: Mapping[str, Tensor]) -> None:
    """Replace the weights of embedding and head by tensors. If they are tied, either weight stands for both.

    Args:
        model: a model without an adapter.
        weights: weights `[rows, dim]` by path.
    """
    if not weights:
        return
    device, dtype, tied = model.device, _table(model.embedding).dtype, model.spec.tied_head
    embedding, head, vocab = model.embedding, model.lm_head, model.spec.vocab_size
    for path, weight in weights.items():
        parameter = nn.Parameter(weight.to(device, dtype), requires_grad=False)
        if path == EMBEDDING or tied:
            embedding, vocab = Embedding(parameter), len(parameter)
        if path == HEAD or tied:
            head = DenseLinear(parameter)
    model.set_embeddings(embedding, head, vocab)


def _with_means(table: TokenTable, rows: int) -> Tensor:
    weight, own = copied_table(table, table.dtype, rows), table.shape[0]
    weight[own:] = weight[:own].mean(0, dtype=torch.float32).to(weight.dtype)
    return weight


def _table(module: nn.Module) -> TokenTable:
    return cast(HoldsTable, module).table
