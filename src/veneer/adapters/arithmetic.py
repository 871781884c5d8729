"""Arithmetic on low-rank updates of one weight: a weighted sum of several, as a new pair of factors.

Three spaces to add in: the factors themselves (linear: cheap, and not the sum of the updates, since (ΣB)(ΣA) has cross
terms), the factors side by side (cat: exact, of the sum of all ranks), or the whole update, brought back to a low rank
by its singular values (svd: the best approximation of its rank). Before the sum, small elements may be pruned, or
random ones be dropped and the rest scaled up (DARE: Yu et al., 2023, arXiv:2311.03099); instead of the sum, elements
may be averaged over those adapters whose sign is the majority's (TIES: Yadav et al., 2023, arXiv:2306.01708).

The definitions are those of PEFT's `add_weighted_adapter`: for equal adapters, weights and seed the result is the same.
As there, TIES elects signs before weights are applied: an adapter with a negative weight votes with its own signs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from veneer.finite import all_finite


class CombinationType(Enum):
    """How several updates become one (PEFT's `combination_type`)."""

    LINEAR = "linear"
    CAT = "cat"
    SVD = "svd"
    TIES = "ties"
    TIES_SVD = "ties_svd"
    DARE_LINEAR = "dare_linear"
    DARE_TIES = "dare_ties"
    DARE_LINEAR_SVD = "dare_linear_svd"
    DARE_TIES_SVD = "dare_ties_svd"
    MAGNITUDE_PRUNE = "magnitude_prune"
    MAGNITUDE_PRUNE_SVD = "magnitude_prune_svd"

    @property
    def by_svd(self) -> bool:
        """Whether whole updates are added and the sum is decomposed."""
        return self.value.endswith("svd")

    @property
    def by_factors(self) -> bool:
        """Whether A and B are added separately, so that all ranks must be equal."""
        return not self.by_svd and self is not CombinationType.CAT

    @property
    def drops(self) -> bool:
        """Whether random elements are dropped (DARE)."""
        return self.value.startswith("dare")

    @property
    def elects(self) -> bool:
        """Whether signs are elected (TIES)."""
        return "ties" in self.value

    @property
    def sparse(self) -> bool:
        """Whether only a share of the elements is kept."""
        return self.drops or self.elects or "prune" in self.value


class Majority(Enum):
    """How TIES elects a sign (PEFT's `majority_sign_method`)."""

    TOTAL = "total"
    """The sign of the sum."""
    FREQUENCY = "frequency"
    """The sign of the greater number of elements."""


@dataclass(frozen=True, slots=True)
class Update:
    """One adapter's update of one weight: scale · b a."""

    a: Tensor
    """A `[rank, in]`; for an embedding `[rank, vocab]`."""
    b: Tensor
    """B `[out, rank]`; for an embedding `[dim, rank]`."""
    scale: float
    weight: float
    """Weight of the update in the sum; a negative one subtracts it."""
    turned: bool = False
    """Whether the update is that of an embedding, whose weight is stored transposed."""

    @property
    def rank(self) -> int:
        """Number of rows of A."""
        return self.a.shape[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateSum:
    """A rule by which updates are added."""

    kind: CombinationType
    generator: torch.Generator
    """Generator of DARE's random draws."""
    density: float = 1.0
    """Share of the elements that are kept."""
    majority: Majority = Majority.TOTAL
    rank: int = 0
    """Largest rank of the result, if it is decomposed."""

    def of(self, updates: Sequence[Update]) -> tuple[Tensor, Tensor]:
        """A and B of the sum, whose scale is 1. Ranks must be equal if factors are added.

        Raises:
            OverflowError: the sum exceeds float32, for example because a weight is far too large.
        """
        a, b = self._factors(updates)
        if not (all_finite(a) and all_finite(b)):
            raise OverflowError("the weighted sum is larger than float32 holds")
        return a, b

    def _factors(self, updates: Sequence[Update]) -> tuple[Tensor, Tensor]:
        if self.kind is CombinationType.CAT:
            return _side_by_side(updates)
        if self.kind is CombinationType.SVD:
            return _decomposed_sum(updates, self.rank)
        if self.kind.by_svd:
            deltas = [update.b @ update.a * update.scale for update in updates]
            weights = [update.weight for update in updates]
            if updates[0].turned:  # which decides what elements a draw drops
                return _decomposed(self._added([delta.t().contiguous() for delta in deltas], weights).t(), self.rank)
            return _decomposed(self._added(deltas, weights), self.rank)
        roots = [math.sqrt(abs(update.weight * update.scale)) for update in updates]
        # A negative weight changes the sign of one factor only: changed in both, the signs would cancel.
        signed = [math.copysign(root, u.weight * u.scale) for root, u in zip(roots, updates, strict=True)]
        return self._added([u.a for u in updates], signed), self._added([u.b for u in updates], roots)

    def _added(self, tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        if self.kind.sparse:
            tensors = [self._thinned(tensor) for tensor in tensors]
        stacked = torch.stack(list(tensors))
        weighted = stacked * torch.tensor(weights).view(-1, *(1,) * tensors[0].dim())
        if not self.kind.elects:
            return weighted.sum(0)
        agreeing = agreement(stacked, self.majority)
        return (weighted * agreeing).sum(0) / agreeing.sum(0).clamp(min=1)

    def _thinned(self, tensor: Tensor) -> Tensor:
        if self.density >= 1:
            return tensor
        return dropped(tensor, self.density, self.generator) if self.kind.drops else pruned(tensor, self.density)


def pruned(tensor: Tensor, density: float) -> Tensor:
    """Zero all but the ⌊density · elements⌋ largest elements."""
    flat = tensor.reshape(-1)
    largest = flat.abs().topk(int(density * flat.numel())).indices
    return torch.zeros_like(flat).index_copy(0, largest, flat[largest]).view(tensor.shape)


def dropped(tensor: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Keep each element with probability `density` and divide it by `density`, so that the mean stays."""
    kept = torch.bernoulli(torch.full_like(tensor, density), generator=generator)
    return tensor * kept / density


def agreement(stacked: Tensor, majority: Majority) -> Tensor:
    """Whether elements have the elected sign, bool `[adapters, …]`. Zeros have no sign, and a tie elects plus."""
    votes = stacked if majority is Majority.TOTAL else stacked.sign()
    return stacked.sign() == torch.where(votes.sum(0) >= 0, 1, -1)


def _side_by_side(updates: Sequence[Update]) -> tuple[Tensor, Tensor]:
    a = torch.cat([update.a * (update.weight * update.scale) for update in updates])
    return a, torch.cat([update.b for update in updates], 1)


def _decomposed_sum(updates: Sequence[Update], rank: int) -> tuple[Tensor, Tensor]:
    # B A = Q (R Sᵀ) Pᵀ with B = Q R and Aᵀ = P S: a small matrix is decomposed instead of one of the weight's size.
    a, b = _side_by_side(updates)
    left, r = torch.linalg.qr(b.double())
    right, s = torch.linalg.qr(a.double().t())
    small_a, small_b = _decomposed(r @ s.t(), rank)
    return (small_a @ right.t()).to(a.dtype), (left @ small_b).to(b.dtype)


def _decomposed(delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of the best approximation of a rank. B contains the singular values."""
    if not all_finite(delta):
        raise OverflowError("the sum to decompose is not finite")
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    return right[:rank].contiguous(), (left[:, :rank] * values[:rank]).contiguous()
