"""Adapters on the token embedding: a LoRA update of all rows, or some rows that are trained directly.

The update of a row is s · Aᵀ[token] Bᵀ with A `[rank, vocab]` and B `[dim, rank]`, in PEFT's layout. Here A starts as
zero and B does not.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from veneer.adapters.files.names import EMBEDDING_A, EMBEDDING_B, MAGNITUDE, TOKEN_ROWS
from veneer.adapters.layers.dora import scaled
from veneer.adapters.layers.kept_norm import KeptNorm
from veneer.adapters.module import SavesTrained
from veneer.products import BaseLinear, factor_grad, linear, linear_input_grad
from veneer.tables import TokenLookup, TokenTable, parts

NORM_ROWS = 4096
"""Number of embedding rows that are summed at a time."""


class _Outputs(torch.autograd.Function):
    """x Wᵀ for a trained W of its dtype, by a product of `veneer.products`. In float32 no row depends on others."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        return linear_input_grad(grad, weight), factor_grad(grad, x, 1.0).to(weight.dtype)


def _outputs(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ, `[tokens, in]` to `[tokens, out]`, with gradients for both."""
    return cast(Tensor, _Outputs.apply(x, weight))


class LoraEmbedding(nn.Module, SavesTrained):
    """An embedding with a LoRA update, and optionally DoRA's magnitudes.

    Args:
        base: the frozen embedding.
        a: initial A, `[rank, vocab]` float32.
        b: initial B, `[dim, rank]` float32.
        scale: factor of the update, usually alpha / rank.
        magnitudes: whether the magnitudes of the embedding's columns are trained (DoRA).
    """

    def __init__(self, base: TokenLookup, a: Tensor, b: Tensor, *, scale: float, magnitudes: bool = False):
        super().__init__()
        self.base = base
        self.lora_embedding_A = nn.Parameter(a)
        self.lora_embedding_B = nn.Parameter(b)
        self.scale = scale
        self.enabled = True
        self.magnitude = nn.Parameter(self._norm()) if magnitudes else None
        self._kept = KeptNorm()

    @property
    def rank(self) -> int:
        """Number of rows of A."""
        return self.lora_embedding_A.shape[0]

    def forward(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Look up token ids `[tokens]`: their rows, `[tokens, dim]` in `dtype`."""
        if not self.enabled:
            return cast(Tensor, self.base(tokens, dtype))
        # Summed in float32 and rounded once, since all later layers depend on it.
        rows = functional.embedding(tokens, self.lora_embedding_A.t())
        summed: Tensor = self.base(tokens, torch.float32) + _outputs(rows, self.lora_embedding_B) * self.scale
        if self.magnitude is not None:
            factors = self.lora_embedding_A, self.lora_embedding_B
            summed = scaled(summed, self.magnitude / self._kept.of(factors, self._norm))
        return summed.to(dtype)

    @torch.no_grad()
    def _norm(self) -> Tensor:
        """Norms of the columns, `[dim]` float32. Rows are summed in parts, since the embedding is large."""
        table = self.base.table
        squares = torch.zeros(table.shape[1], dtype=torch.float64, device=table.device)
        for place, rows in parts(table, NORM_ROWS):
            a = self.lora_embedding_A.t()[place]
            summed = rows.float() + (a @ self.lora_embedding_B.t()) * self.scale
            squares += summed.square().sum(0, dtype=torch.float64)
        return squares.sqrt().float()

    def delta(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The update as a matrix, `[vocab, dim]` computed in `dtype`."""
        return (self.lora_embedding_A.t().to(dtype) @ self.lora_embedding_B.t().to(dtype)) * self.scale

    def trained(self) -> dict[str, nn.Parameter]:
        """A, B and the magnitudes. See `AdapterModule.trained`."""
        named = {EMBEDDING_A: self.lora_embedding_A, EMBEDDING_B: self.lora_embedding_B}
        return named if self.magnitude is None else named | {MAGNITUDE: self.magnitude}

    def merge_into(self, tensors: dict[str, Tensor]) -> None:
        """Add the update, and rescale the columns if magnitudes are trained. See `AdapterModule.merge_into`."""
        wide = tensors["weight"].dtype
        tensors["weight"] = tensors["weight"] + self.delta(wide).detach()
        if self.magnitude is not None:
            gain = (self.magnitude.detach().double() / self._norm().double()).to(wide)
            tensors["weight"] = tensors["weight"] * gain


class TokenRows(nn.Module):
    """Trained rows of an embedding or head.

    Args:
        table: the weight `[vocab, dim]`, which is not changed.
        ids: ids of the tokens whose rows are trained.
    """

    ids: Tensor
    places: Tensor

    def __init__(self, table: TokenTable, ids: tuple[int, ...]):
        super().__init__()
        self.register_buffer("ids", torch.tensor(ids, device=table.device))
        places = torch.full((table.shape[0],), -1, device=table.device)
        places[self.ids] = torch.arange(len(ids), device=table.device)
        self.register_buffer("places", places)
        self.values = nn.Parameter(table.rows(self.ids).detach().float())

    def merge_into(self, tensors: dict[str, Tensor]) -> None:
        """Replace the rows in the weight. See `AdapterModule.merge_into`."""
        own = self.values.detach().to(tensors["weight"].dtype)
        tensors["weight"] = tensors["weight"].index_copy(0, self.ids, own)


class TokenEmbedding(nn.Module, SavesTrained):
    """An embedding of which some rows are trained. The others are frozen."""

    def __init__(self, base: TokenLookup, rows: TokenRows):
        super().__init__()
        self.base = base
        self.rows = rows
        self.enabled = True

    def forward(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Look up token ids `[tokens]`: their rows, `[tokens, dim]` in `dtype`."""
        found = cast(Tensor, self.base(tokens, dtype))
        if not self.enabled:
            return found
        places = self.rows.places[tokens]
        own = functional.embedding(places.clamp(min=0), self.rows.values).to(dtype)
        return torch.where((places >= 0)[:, None], own, found)

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained rows, by PEFT's name. See `AdapterModule`."""
        return {TOKEN_ROWS: self.rows.values}

    def merge_into(self, tensors: dict[str, Tensor]) -> None:
        """Replace the rows in the weight. See `AdapterModule.merge_into`."""
        self.rows.merge_into(tensors)


class TokenHead(nn.Module, SavesTrained):
    """A head of which some rows are trained: its own rows, or those of the embedding that it is tied to.

    Args:
        base: the frozen head.
        rows: the trained rows.
        tied: whether the rows belong to the embedding, which then saves them.
    """

    def __init__(self, base: BaseLinear, rows: TokenRows, *, tied: bool):
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.base = base
        self.rows = rows
        self.tied = tied
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        """Logits, `[rows, dim]` to `[rows, vocab]`."""
        scores = self.base(x)
        if not self.enabled:
            return scores
        return scores.index_copy(1, self.rows.ids, _outputs(x, self.rows.values.to(x.dtype)))

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained rows, unless they belong to the embedding. See `AdapterModule.trained`."""
        return {} if self.tied else {TOKEN_ROWS: self.rows.values}

    def merge_into(self, tensors: dict[str, Tensor]) -> None:
        """Replace the rows in the weight. See `AdapterModule.merge_into`."""
        self.rows.merge_into(tensors)
