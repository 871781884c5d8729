"""Rotary positions of transformers whose angles depend on the length of a text.

LongRoPE rotates a text beyond the trained context by other angles, from its first token on. Under dynamic scaling each
length beyond it has its own angles. transformers chooses the angles of a whole batch by its largest position. So only
texts whose lengths have equal angles may share a batch, and the cache of a text is valid as long as its angles stay the
same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

LONGROPE, DYNAMIC = "longrope", "dynamic"


@dataclass(frozen=True, slots=True)
class AnglesByLength:
    """The lengths of a text that have their own angles. Both fields are empty if the angles are always the same."""

    outgrown: frozenset[int] = frozenset()
    """Lengths beyond which LongRoPE uses its other angles."""
    stretched: frozenset[int] = frozenset()
    """Lengths beyond which dynamic scaling has other angles for every length."""

    @property
    def differ(self) -> bool:
        """Whether there are lengths with other angles."""
        return bool(self.outgrown or self.stretched)

    def of(self, length: int) -> tuple[int, ...]:
        """A key, equal for lengths with equal angles."""
        beyond = (int(length > bound) for bound in sorted(self.outgrown))
        return (*beyond, *(max(length, bound) for bound in sorted(self.stretched)))

    def alike(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices into `lengths`, those with equal angles together."""
        if not self.differ:
            return [list(range(len(lengths)))]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, length in enumerate(lengths):
            groups.setdefault(self.of(length), []).append(index)
        return list(groups.values())


ALWAYS_EQUAL = AnglesByLength()


def angles_by_length(config: Any) -> AnglesByLength:
    """Read it from the configuration of a model's body."""
    outgrown, stretched = set(), set()
    for group in _rope_groups(config):
        kind = str(group.get("rope_type", group.get("type")))
        trained = getattr(config, "max_position_embeddings", None)
        if DYNAMIC in kind and trained is not None:
            stretched.add(int(trained))
        elif kind == LONGROPE:
            original = group.get("original_max_position_embeddings")
            own = getattr(config, "original_max_position_embeddings", None)
            outgrown.add(int(next(bound for bound in (original, own, trained) if bound is not None)))
    return AnglesByLength(frozenset(outgrown), frozenset(stretched))


def _rope_groups(config: Any) -> Iterator[Mapping[str, Any]]:
    """The settings of rotary positions, and those for each kind of layer."""
    for name in ("rope_parameters", "rope_scaling"):
        settings = getattr(config, name, None)
        if isinstance(settings, Mapping):
            yield settings
            yield from (group for group in settings.values() if isinstance(group, Mapping))


class DynamicRotaries:
    """The parts of a body that compute the angles of dynamic scaling.

    They keep the angles of the longest text that they have met, for texts that are as long as the trained context or
    longer. So the angles of a text would depend on those before it.

    Args:
        body: the model's decoder without its head.
    """

    def __init__(self, body: nn.Module):
        self._calls: list[tuple[nn.Module, tuple[str, ...]]] = []
        for part in body.modules():
            kinds = getattr(part, "rope_type", None)
            if isinstance(kinds, Mapping):
                self._calls += [(part, (layers,)) for layers, kind in kinds.items() if DYNAMIC in kind]
            elif isinstance(kinds, str) and DYNAMIC in kinds:
                self._calls.append((part, ()))

    def forget(self, device: torch.device) -> None:
        """Reset them to the angles of the trained context, by computing a text of one token."""
        for rotary, layers in self._calls:
            rotary(torch.empty(1, device=device), torch.zeros((1, 1), dtype=torch.int64, device=device), *layers)
