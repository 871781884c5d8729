"""Resizing embedding and head for tokens that were added to the vocabulary.

The rows of the base stay as they are. New rows are added at the end; they have no meaning until they are trained.
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
        weights: dict[str, Tensor] = {EMBEDDING: _weight(model.embedding)}
        if not model.spec.tied_head:
            weights[HEAD] = _weight(model.lm_head)
        set_embeddings(model, {path: _with_means(weight, rows) for path, weight in weights.items()})


def set_embeddings(model: LanguageModel, weights: Mapping[str, Tensor]) -> None:
    """Replace the weights of embedding and head. Where they are tied, either weight stands for both.

    Args:
        model: a model without an adapter.
        weights: weights `[rows, dim]` by path.
    """
    if not weights:
        return
    device, dtype, tied = model.device, _weight(model.embedding).dtype, model.spec.tied_head
    embedding, head, vocab = model.embedding, model.lm_head, model.spec.vocab_size
    for path, weight in weights.items():
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
