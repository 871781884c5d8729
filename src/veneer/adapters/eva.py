"""EVA's directions: what the inputs of each layer vary in most, on rows that are to be trained.

Paischer et al., 2024 (arXiv:2410.07170), find them by an incremental decomposition of activations until it converges.
Here the covariance of a layer's inputs is summed in float64 over the rows that are looked at and decomposed once, one
decoder layer at a time: it is exact, and takes the memory of one layer's covariances. Every layer gets the rank that
it was given: shifting rank between layers by the share of variance, as the paper offers, would decide the adapter's
size only when the model is there, and the plan is made before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from veneer.adapters.targets import HEAD, layer_number
from veneer.errors import AdapterError
from veneer.model.attention import PackedAttention
from veneer.model.decoder import CausalLM
from veneer.model.rope import Angles


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredDocuments:
    """Packed documents, and which of their tokens count."""

    tokens: Tensor
    """int64 `[tokens]`."""
    positions: Tensor
    """int64 `[tokens]`."""
    segments: tuple[int, ...]
    shared: int
    rows: Tensor
    """int64: tokens whose layer inputs are measured; those that predict a supervised token."""


@torch.no_grad()
def directions(model: CausalLM, documents: Sequence[MeasuredDocuments], ranks: Mapping[str, int]) -> dict[str, Tensor]:
    """For each path the directions of most variance, `[rank, in_features]` float32 with orthonormal rows.

    Args:
        model: without an adapter.
        documents: what is measured on.
        ranks: directions wanted, by the path of a linear layer.

    Raises:
        AdapterError: there are fewer rows than directions.
    """
    count = sum(len(one.rows) for one in documents)
    most = max(ranks.values())
    if count <= most:
        raise AdapterError(
            f"init eva: rank {most} needs more than {most} supervised tokens to measure; there are {count}"
        )
    states = [_State.before(model, one) for one in documents]
    found: dict[str, Tensor] = {}
    for number, layer in enumerate(model.model.layers):
        paths = [path for path in ranks if layer_number(path) == number]
        with _Listening(model, paths) as heard:
            for state in states:
                heard.rows = state.rows
                state.hidden = layer(state.hidden, state.angles[number], state.attention)
        found |= heard.directions(ranks)
    if HEAD in ranks:
        heard = _Listening(model, [HEAD])
        for state in states:
            heard.rows = state.rows
            heard.take(HEAD, model.model.norm(state.hidden))
        found |= heard.directions(ranks)
    return found


@dataclass(slots=True)
class _State:
    """Where the forward pass of some documents stands."""

    hidden: Tensor
    angles: list[Angles | None]
    attention: PackedAttention
    rows: Tensor

    @classmethod
    def before(cls, model: CausalLM, one: MeasuredDocuments) -> _State:
        device = model.device
        attention = PackedAttention(one.segments, one.shared)
        angles = model.model.angles(one.positions.to(device), attention)
        hidden = model.model.embedded(one.tokens.to(device), model.dtype)
        return cls(hidden, angles, attention, one.rows.to(device))


@dataclass(slots=True)
class _Sums:
    """Of a layer's inputs: their number, sum and products."""

    count: int
    total: Tensor
    products: Tensor

    def principal(self, rank: int) -> Tensor:
        """The directions of most variance, `[rank, width]` float32."""
        mean = self.total / self.count
        covariance = self.products / self.count - torch.outer(mean, mean)
        vectors: Tensor = torch.linalg.eigh(covariance)[1]  # by ascending variance
        return vectors[:, -rank:].flip(1).t().float().contiguous()


@dataclass(slots=True)
class _Listening:
    """Within the block, sums over the inputs of some layers; layers that share an input share its sums."""

    model: CausalLM
    paths: list[str]
    rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    _sums: dict[str, _Sums] = field(default_factory=dict)
    _handles: list[Any] = field(default_factory=list)

    def __enter__(self) -> _Listening:
        for home in dict.fromkeys(_home(path) for path in self.paths):
            path = next(path for path in self.paths if _home(path) == home)
            self._handles.append(self.model.get_submodule(path).register_forward_pre_hook(self._hook(home)))
        return self

    def __exit__(self, *raised: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, home: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: self.take(home, inputs[0])

    def take(self, home: str, inputs: Tensor) -> None:
        """Add the inputs `[tokens, width]` of the rows that count."""
        x = inputs[self.rows].double()
        sums = self._sums.setdefault(home, _Sums(0, x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1], x.shape[1])))
        sums.count += len(x)
        sums.total += x.sum(0)
        sums.products += x.t() @ x

    def directions(self, ranks: Mapping[str, int]) -> dict[str, Tensor]:
        """The directions of each path."""
        most = {home: max(ranks[path] for path in self.paths if _home(path) == home) for home in self._sums}
        principal = {home: sums.principal(most[home]) for home, sums in self._sums.items()}
        return {path: principal[_home(path)][: ranks[path]] for path in self.paths}


def _home(path: str) -> str:
    """What layers with the same input have in common."""
    above, _, leaf = path.rpartition(".")
    return f"{above}.{_SHARED.get(leaf, leaf)}" if above else leaf


_SHARED = {
    "q_proj": "attention",
    "k_proj": "attention",
    "v_proj": "attention",
    "gate_proj": "gated",
    "up_proj": "gated",
}
