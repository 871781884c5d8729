"""Adapters on the token embedding: a low-rank update of all rows, or some rows trained as they are.

The update of a row is s · Aᵀ[token] Bᵀ with A `[rank, vocab]` and B `[dim, rank]`, in PEFT's layout. A starts as zero
here and B does not, since A's rows are looked up and B is multiplied with.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from veneer.adapters.dora import MAGNITUDE, scaled
from veneer.adapters.module import copy_in
from veneer.model.decoder import DenseLinear, Embedding
from veneer.model.precomputed import Precomputes

NORM_ROWS = 4096
"""Rows of a table that are summed at a time."""
TOKENS = "token_adapter.trainable_tokens_delta"
"""PEFT's name of the trained rows (they are the rows, not their change)."""


class LoraEmbedding(nn.Module, Precomputes):
    """An embedding with a low-rank update, and with DoRA's magnitudes where asked for.

    Args:
        base: the frozen embedding.
        a: `[rank, vocab]` float32.
        b: `[dim, rank]` float32.
        scale: alpha / rank.
        magnitudes: whether the length of each of the embedding's columns is trained by itself (DoRA).
    """

    def __init__(self, base: Embedding, a: Tensor, b: Tensor, *, scale: float, magnitudes: bool = False):
        super().__init__()
        self.base = base
        self.lora_embedding_A = nn.Parameter(a)
        self.lora_embedding_B = nn.Parameter(b)
        self.scale = scale
        self.enabled = True
        self.magnitude = nn.Parameter(self._norm()) if magnitudes else None
        self._gain: Tensor | None = None

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.lora_embedding_A.shape[0]

    def forward(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of the table, `[tokens]` to `[tokens, dim]` in `dtype`."""
        if not self.enabled:
            return cast(Tensor, self.base(tokens, dtype))
        # Summed in float32 and rounded once: it is one row a token, and everything behind depends on it.
        rows = functional.embedding(tokens, self.lora_embedding_A.t())
        summed: Tensor = self.base(tokens, torch.float32) + (rows @ self.lora_embedding_B.t()) * self.scale
        if self.magnitude is not None:
            summed = scaled(summed, self.magnitude / self._norm() if self._gain is None else self._gain)
        return summed.to(dtype)

    @torch.no_grad()
    def _norm(self) -> Tensor:
        """Lengths of the columns, `[dim]` float32: summed over rows in parts, as the table is the model's largest."""
        squares = torch.zeros(self.base.weight.shape[1], dtype=torch.float64, device=self.base.weight.device)
        for rows, a in zip(
            torch.split(self.base.weight, NORM_ROWS), torch.split(self.lora_embedding_A.t(), NORM_ROWS), strict=True
        ):
            summed = rows.float() + (a @ self.lora_embedding_B.t()) * self.scale
            squares += summed.square().sum(0, dtype=torch.float64)
        return squares.sqrt().float()

    @torch.no_grad()
    def precompute(self) -> None:
        """Keep the columns' factors; see `Precomputes`."""
        self._gain = None if self.magnitude is None else self.magnitude / self._norm()

    def forget_precomputed(self) -> None:
        """Forget them."""
        self._gain = None

    def delta(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The update as a matrix, `[vocab, dim]` computed in `dtype`."""
        return (self.lora_embedding_A.t().to(dtype) @ self.lora_embedding_B.t().to(dtype)) * self.scale

    def trained(self) -> dict[str, nn.Parameter]:
        """A, B and the magnitudes; see `AdapterModule`."""
        named = {"lora_embedding_A": self.lora_embedding_A, "lora_embedding_B": self.lora_embedding_B}
        return named if self.magnitude is None else named | {MAGNITUDE: self.magnitude}

    def tensors(self) -> dict[str, Tensor]:
        """The same; see `AdapterModule`."""
        return {name: tensor.detach() for name, tensor in self.trained().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take them; see `AdapterModule`."""
        copy_in(self.tensors(), tensors)

    def fold(self, tensors: dict[str, Tensor]) -> None:
        """Add the update, and give the columns their lengths; see `AdapterModule`."""
        wide = tensors["weight"].dtype
        tensors["weight"] = tensors["weight"] + self.delta(wide).detach()
        if self.magnitude is not None:
            gain = (self.magnitude.detach().double() / self._norm().double()).to(wide)
            tensors["weight"] = tensors["weight"] * gain


class TokenRows(nn.Module):
    """Rows of a table that are trained, and which.

    Args:
        weight: the table, `[vocab, dim]`; it is not changed.
        ids: the tokens whose rows are trained.
    """

    ids: Tensor
    places: Tensor

    def __init__(self, weight: Tensor, ids: tuple[int, ...]):
        super().__init__()
        self.register_buffer("ids", torch.tensor(ids, device=weight.device))
        places = torch.full((len(weight),), -1, device=weight.device)
        places[self.ids] = torch.arange(len(ids), device=weight.device)
        self.register_buffer("places", places)
        self.values = nn.Parameter(weight.detach()[self.ids].float())

    def fold(self, tensors: dict[str, Tensor]) -> None:
        """Put the rows into the table, of the embedding or of the head; see `AdapterModule`."""
        own = self.values.detach().to(tensors["weight"].dtype)
        tensors["weight"] = tensors["weight"].index_copy(0, self.ids, own)


class TokenEmbedding(nn.Module):
    """An embedding some of whose rows are trained; the rest is frozen."""

    def __init__(self, base: Embedding, rows: TokenRows):
        super().__init__()
        self.base = base
        self.rows = rows
        self.enabled = True

    def forward(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of the table, `[tokens]` to `[tokens, dim]` in `dtype`."""
        found = cast(Tensor, self.base(tokens, dtype))
        if not self.enabled:
            return found
        places = self.rows.places[tokens]
        own = functional.embedding(places.clamp(min=0), self.rows.values).to(dtype)
        return torch.where((places >= 0)[:, None], own, found)

    def trained(self) -> dict[str, nn.Parameter]:
        """The rows; see `AdapterModule`."""
        return {TOKENS: self.rows.values}

    def tensors(self) -> dict[str, Tensor]:
        """The rows; see `AdapterModule`."""
        return {TOKENS: self.rows.values.detach()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the rows; see `AdapterModule`."""
        copy_in(self.tensors(), tensors)

    def fold(self, tensors: dict[str, Tensor]) -> None:
        """Put the rows into the table; see `AdapterModule`."""
        self.rows.fold(tensors)


class TokenHead(nn.Module):
    """A head some of whose rows are trained: its own, or those of the embedding that it is tied to.

    Args:
        base: the frozen head.
        rows: the trained ones.
        tied: whether they are the embedding's, which then saves them.
    """

    def __init__(self, base: DenseLinear, rows: TokenRows, *, tied: bool):
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.base = base
        self.rows = rows
        self.tied = tied
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[rows, dim]` to `[rows, vocab]`."""
        scores = cast(Tensor, self.base(x))
        if not self.enabled:
            return scores
        return scores.index_copy(1, self.rows.ids, x @ self.rows.values.to(x.dtype).t())

    def trained(self) -> dict[str, nn.Parameter]:
        """The rows, where they are its own; see `AdapterModule`."""
        return {} if self.tied else {TOKENS: self.rows.values}

    def tensors(self) -> dict[str, Tensor]:
        """The same; see `AdapterModule`."""
        return {name: tensor.detach() for name, tensor in self.trained().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the rows; see `AdapterModule`."""
        copy_in(self.tensors(), tensors)

    def fold(self, tensors: dict[str, Tensor]) -> None:
        """Put the rows into the table; see `AdapterModule`."""
        self.rows.fold(tensors)
