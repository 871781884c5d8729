"""Steps through the compiled library, over a cache in blocks: any tokens of any sequences under any adapters at once.

Every token is computed by one order of operations, whether it is a prompt's or a new one, in whatever piece of a prompt
and beside whatever other rows. So a sequence's tokens are those that it gets alone, bit for bit, and keys and values of
equal beginnings are equal.

Adapters that the library does not know are computed through modules, one batch an adapter (`CohortRunner`).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from veneer.generation.blocks import DROPPED, Block, BlockGroup
from veneer.generation.cohort import CohortRunner
from veneer.generation.runner import LoadedAdapter, StepInput, Wanted
from veneer.generation.sequence import Placement
from veneer.model.compiled_step import CompiledStep, StepRows, layer_groups
from veneer.native.program import CacheBlocks, Segment


class PagedRunner:
    """Computes steps with a compiled step.

    Args:
        step: of the base.
        block_tokens: how many tokens of a sequence a block holds.
        others: computes sequences under adapters that the step does not know.
    """

    def __init__(self, step: CompiledStep, block_tokens: int, others: CohortRunner):
        self._step, self._block_tokens, self._others = step, block_tokens, others
        groups = layer_groups(step.spec)
        self._shapes = [group.block_shape(step.spec, block_tokens) for group in groups]
        self._groups = tuple(
            BlockGroup(math.prod(shape) * step.dtype.itemsize, group.window)
            for group, shape in zip(groups, self._shapes, strict=True)
        )
        self._blocks: dict[Block, Tensor] = {}

    @property
    def groups(self) -> tuple[BlockGroup, ...]:
        """See `Runner.groups`."""
        return self._groups

    @property
    def outgrown(self) -> frozenset[int]:
        """See `Runner.outgrown`."""
        return self._step.spec.outgrown

    def placement(self, adapter: LoadedAdapter | None) -> Placement:
        """See `Runner.placement`."""
        return Placement.BLOCKS if adapter is None or adapter.factors is not None else Placement.COHORT

    def compute(self, inputs: Sequence[StepInput], dropped: Sequence[Block] = ()) -> list[Tensor | None]:
        """See `Runner.compute`."""
        for block in dropped:
            self._blocks.pop(block, None)
        apart = [item for item in inputs if item.work.sequence.placement is Placement.COHORT]
        found = dict(zip(map(_number, apart), self._others.compute(apart), strict=True))
        paged = [item for item in inputs if item.work.sequence.placement is Placement.BLOCKS]
        if paged:
            # The tokens of each adapter stand together. Two versions of one may be there at once.
            found |= self._compute_paged(sorted(paged, key=_adapter_key))
        return [found[_number(item)] for item in inputs]

    def close(self) -> None:
        """See `Runner.close`."""
        self._others.close()
        self._blocks.clear()

    def _compute_paged(self, inputs: Sequence[StepInput]) -> dict[int, Tensor | None]:
        tokens: list[int] = []
        positions: list[int] = []
        lengths: list[int] = []
        counts: list[int] = []
        wanted: list[int] = []
        for item in inputs:
            work, first = item.work, len(tokens)
            stop = work.start + work.count
            tokens += work.sequence.tokens[work.start : stop]
            positions += range(work.start, stop)
            lengths += [len(work.sequence.tokens)] * work.count
            rows = range(first, first + work.count)
            own = {Wanted.NONE: rows[:0], Wanted.LAST: rows[-1:], Wanted.ALL: rows}[item.wanted]
            wanted += own
            counts.append(len(own))
        logits = self._step.run(
            StepRows(
                tokens=torch.tensor(tokens),
                positions=torch.tensor(positions),
                lengths=torch.tensor(lengths),
                blocks=CacheBlocks(
                    dtype=self._step.dtype, block_tokens=self._block_tokens, addresses=self._addresses(inputs)
                ),
                segments=_segments(inputs),
                wanted=torch.tensor(wanted, dtype=torch.int64),
            )
        )
        parts = torch.split(logits, counts)
        return {_number(item): part if len(part) else None for item, part in zip(inputs, parts, strict=True)}

    def _addresses(self, inputs: Sequence[StepInput]) -> list[list[ctypes.Array[ctypes.c_void_p]]]:
        """By group and row: where the blocks of the row's sequence begin."""
        found = []
        for group in range(len(self._groups)):
            rows: list[ctypes.Array[ctypes.c_void_p]] = []
            for item in inputs:
                table = item.work.sequence.tables[group]
                addresses = [0 if number == DROPPED else self._address((group, number)) for number in table]
                rows += [(ctypes.c_void_p * len(table))(*addresses)] * item.work.count
            found.append(rows)
        return found

    def _address(self, block: Block) -> int:
        """Where a block begins; its memory is made when it is first used."""
        if block not in self._blocks:
            self._blocks[block] = torch.empty(self._shapes[block[0]], dtype=self._step.dtype)
        return self._blocks[block].data_ptr()


def _number(item: StepInput) -> int:
    return item.work.sequence.number


def _adapter_key(item: StepInput) -> tuple[bytes, int]:
    return b"" if item.adapter is None else item.adapter.key, _number(item)


def _segments(inputs: Sequence[StepInput]) -> list[Segment]:
    """The rows of each adapter; inputs of one adapter are neighbours."""
    found: list[Segment] = []
    start = 0
    for item in inputs:
        stop = start + item.work.count
        factors = None if item.adapter is None else item.adapter.factors
        if factors is not None:
            if found and found[-1].stop == start and found[-1].factors is factors:
                found[-1] = Segment(found[-1].start, stop, factors)
            else:
                found.append(Segment(start, stop, factors))
        start = stop
    return found
