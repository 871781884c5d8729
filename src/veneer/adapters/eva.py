"""EVA's directions: the directions of most variance of each layer's inputs, measured on training rows.

Paischer et al., 2024 (arXiv:2410.07170), find them by an incremental decomposition of activations until it converges.
Here the covariance of a layer's inputs is summed in float64 over the measured rows and decomposed once, one decoder
layer at a time. This is exact, and needs the memory of one layer's covariances. Every layer keeps its given rank. The
paper can also move rank between layers by their share of variance. Then the size of the adapter would be known only
after loading the model, but the plan is made before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from veneer.adapters.targets import HEAD, layer_number
from veneer.errors import AdapterError
from veneer.model.attention import PackedAttention
from veneer.model.decoder import CausalLM
from veneer.model.rope import Angles


class MeasuredDocuments(Protocol):
    """Packed documents, and the tokens whose layer inputs are measured."""

    @property
    def tokens(self) -> Tensor:
        """Token ids, int64 `[tokens]`."""
        ...

    @property
    def positions(self) -> Tensor:
        """Positions in each document, int64 `[tokens]`."""
        ...

    @property
    def segments(self) -> tuple[int, ...]:
        """Lengths of the documents after the shared tokens."""
        ...

    @property
    def shared(self) -> int:
        """Number of tokens at the front with which every document begins."""
        ...

    @property
    def rows(self) -> Tensor:
        """Indices of the measured tokens, int64: those that predict a supervised token."""
        ...


@torch.no_grad()
def directions(model: CausalLM, documents: Sequence[MeasuredDocuments], ranks: Mapping[str, int]) -> dict[str, Tensor]:
    """The directions of most variance for each path, `[rank, in_features]` float32 with orthonormal rows.

    Args:
        model: a model without an adapter.
        documents: the documents to measure on.
        ranks: number of directions, by the path of a linear layer; nothing is measured if there are none.

    Raises:
        AdapterError: there are fewer rows than directions.
    """
    if not ranks:
        return {}
    count = sum(len(pack.rows) for pack in documents)
    most = max(ranks.values())
    if count <= most:
        raise AdapterError(
            f"init eva: rank {most} needs more than {most} supervised tokens to measure; there are {count}"
        )
    states = [_PassState.before(model, pack) for pack in documents]
    by_path: dict[str, Tensor] = {}
    for number, layer in enumerate(model.model.layers):
        paths = [path for path in ranks if layer_number(path) == number]
        with _InputSums(model, paths) as sums:
            for state in states:
                sums.rows = state.rows
                state.hidden = layer(state.hidden, state.angles[number], state.attention)
        by_path |= sums.directions(ranks)
    if HEAD in ranks:
        sums = _InputSums(model, [HEAD])
        for state in states:
            sums.rows = state.rows
            sums.take(HEAD, model.model.norm(state.hidden))
        by_path |= sums.directions(ranks)
    return by_path


@dataclass(slots=True)
class _PassState:
    """The state of the forward pass of one pack of documents, between two layers."""

    hidden: Tensor
    angles: list[Angles | None]
    attention: PackedAttention
    rows: Tensor

    @classmethod
    def before(cls, model: CausalLM, pack: MeasuredDocuments) -> _PassState:
        """The state before the first layer."""
        device = model.device
        attention = PackedAttention(pack.segments, pack.shared)
        angles = model.model.angles(pack.positions.to(device), attention)
        hidden = model.model.embedded(pack.tokens.to(device), model.dtype)
        return cls(hidden, angles, attention, pack.rows.to(device))


@dataclass(slots=True)
class _Covariance:
    """Count, sum and sum of products of a layer's inputs."""

    count: int
    total: Tensor
    products: Tensor

    def principal(self, rank: int) -> Tensor:
        """Directions of most variance, `[rank, width]` float32."""
        mean = self.total / self.count
        matrix = self.products / self.count - torch.outer(mean, mean)
        vectors: Tensor = torch.linalg.eigh(matrix)[1]  # by ascending variance
        return vectors[:, -rank:].flip(1).t().float().contiguous()


@dataclass(slots=True)
class _InputSums:
    """Within the block, the covariances of the inputs of some layers. Layers with a common input share one."""

    model: CausalLM
    paths: list[str]
    rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    _sums: dict[str, _Covariance] = field(default_factory=dict)
    _handles: list[Any] = field(default_factory=list)

    def __enter__(self) -> _InputSums:
        for home in dict.fromkeys(_input_group(path) for path in self.paths):
            path = next(path for path in self.paths if _input_group(path) == home)
            self._handles.append(self.model.get_submodule(path).register_forward_pre_hook(self._hook(home)))
        return self

    def __exit__(self, *raised: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, home: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: self.take(home, inputs[0])

    def take(self, home: str, inputs: Tensor) -> None:
        """Add the inputs `[tokens, width]` of the measured rows."""
        x = inputs[self.rows].double()
        sums = self._sums.setdefault(home, _Covariance(0, x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1], x.shape[1])))
        sums.count += len(x)
        sums.total += x.sum(0)
        sums.products += x.t() @ x

    def directions(self, ranks: Mapping[str, int]) -> dict[str, Tensor]:
        """Directions of most variance for each path."""
        most = {home: max(ranks[path] for path in self.paths if _input_group(path) == home) for home in self._sums}
        principal = {home: sums.principal(most[home]) for home, sums in self._sums.items()}
        return {path: principal[_input_group(path)][: ranks[path]] for path in self.paths}


def _input_group(path: str) -> str:
    """A key that layers with a common input share."""
    above, _, leaf = path.rpartition(".")
    return f"{above}.{_SHARED.get(leaf, leaf)}" if above else leaf


_SHARED = {
    "q_proj": "attention",
    "k_proj": "attention",
    "v_proj": "attention",
    "gate_proj": "gated",
    "up_proj": "gated",
}
