"""Steps through the compiled library, over a cache in blocks: any tokens of any sequences under any adapters at once.

The order of operations for a token does not depend on how its prompt is cut or on the other rows of the step. It may
depend only on whether the token belongs to a prompt or an answer, and a token of an answer is treated as such when it
is computed again. So a sequence gets the same tokens, bit for bit, as when it is computed alone, and equal beginnings
have equal keys and values.

Adapters that the library does not support are computed through modules, one batch per adapter (`CohortRunner`).
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from veneer.generation.blocks import DROPPED_BLOCK, BlockGroup, BlockId
from veneer.generation.cohort import CohortRunner
from veneer.generation.logprobs import prompt_logprobs
from veneer.generation.request import TokenLogprob
from veneer.generation.runner import LoadedAdapter, StepInput, StepOutput, Wanted
from veneer.generation.sequence import Placement
from veneer.model.compiled_step import CompiledStep, RowsOfStep, layer_groups
from veneer.native.functions import KernelProducts
from veneer.native.program import CacheBlocks, Segment

_Table = ctypes.Array[ctypes.c_void_p]


@dataclass(frozen=True, slots=True)
class _Part:
    """Tokens of an input that all belong to its prompt, or all to its answer."""

    item: StepInput
    start: int
    stop: int

    @property
    def count(self) -> int:
        """The number of the tokens."""
        return self.stop - self.start


class PagedRunner:
    """Computes steps with a compiled step.

    Args:
        step: the compiled step of the base model.
        block_tokens: the number of tokens of a sequence that a block holds.
        others: computes sequences under adapters that the step does not support.
    """

    def __init__(self, step: CompiledStep, block_tokens: int, others: CohortRunner):
        self._step, self._block_tokens, self._others = step, block_tokens, others
        groups = layer_groups(step.spec)
        self._shapes = [group.block_shape(step.spec, block_tokens) for group in groups]
        self._groups = tuple(
            BlockGroup(math.prod(shape) * step.dtype.itemsize, group.window)
            for group, shape in zip(groups, self._shapes, strict=True)
        )
        self._blocks: dict[BlockId, Tensor] = {}
        self._tables: dict[tuple[int, int], tuple[list[int], _Table]] = {}
        """The blocks of the last step by group and sequence: their numbers, and where they begin."""

    @property
    def groups(self) -> tuple[BlockGroup, ...]:
        """See `Runner.groups`."""
        return self._groups

    @property
    def prompts_apart(self) -> bool:
        """See `Runner.prompts_apart`."""
        return self._step.products is KernelProducts.PAIRS

    @property
    def outgrown(self) -> frozenset[int]:
        """See `Runner.outgrown`."""
        return self._step.spec.outgrown

    def placement(self, adapter: LoadedAdapter | None) -> Placement:
        """See `Runner.placement`."""
        return Placement.BLOCKS if adapter is None or adapter.factors is not None else Placement.COHORT

    def compute(self, inputs: Sequence[StepInput], dropped: Sequence[BlockId] = ()) -> list[StepOutput | None]:
        """See `Runner.compute`."""
        if dropped:
            self._tables.clear()
        for block in dropped:
            self._blocks.pop(block, None)
        apart = [item for item in inputs if item.work.sequence.placement is Placement.COHORT]
        found = dict(zip(map(_number, apart), self._others.compute(apart), strict=True))
        paged = [item for item in inputs if item.work.sequence.placement is Placement.BLOCKS]
        if paged:
            # The tokens of each adapter are next to each other. Two versions of an adapter may be present at once.
            found |= self._compute_paged(sorted(paged, key=_adapter_key))
        return [found[_number(item)] for item in inputs]

    def close(self) -> None:
        """See `Runner.close`."""
        self._others.close()
        self._blocks.clear()
        self._tables.clear()

    def _compute_paged(self, inputs: Sequence[StepInput]) -> dict[int, StepOutput | None]:
        answers, prompts = _parts(inputs)
        parts = [*answers, *prompts]
        rows = [(part.item.work.sequence, place) for part in parts for place in range(part.start, part.stop)]
        wanted = _wanted(inputs, parts)
        logits = self._step.run(
            RowsOfStep(
                tokens=[sequence.tokens[place] for sequence, place in rows],
                positions=[place for _, place in rows],
                lengths=[len(sequence.tokens) for sequence, _ in rows],
                blocks=CacheBlocks(
                    dtype=self._step.dtype, block_tokens=self._block_tokens, addresses=self._addresses(inputs, parts)
                ),
                segments=_segments(parts),
                wanted=[row for own in wanted for row in own],
                first_prompt=sum(part.count for part in answers),
            )
        )
        ends = list(itertools.accumulate(map(len, wanted)))
        outputs: dict[int, StepOutput | None] = dict.fromkeys(map(_number, inputs))
        asked = [(item, end - len(own), end) for item, own, end in zip(inputs, wanted, ends, strict=True) if own]
        tokens = self._step.likeliest(logits, [end - 1 for _, _, end in asked])
        for (item, start, end), token in zip(asked, tokens, strict=True):
            own = logits[start:end]
            scored = _scored(item, own) if item.wanted is Wanted.ALL else ()
            outputs[_number(item)] = StepOutput(own, token, scored)
        return outputs

    def _addresses(self, inputs: Sequence[StepInput], parts: Sequence[_Part]) -> list[list[_Table]]:
        """Where the blocks of each row's sequence begin, by group and row."""
        before, self._tables = self._tables, {}
        found = []
        for group in range(len(self._groups)):
            for item in inputs:
                place, blocks = (group, _number(item)), item.work.sequence.tables[group]
                known = before.get(place)
                self._tables[place] = known if known and known[0] == blocks else (blocks[:], self._table(group, blocks))
            found.append([self._tables[group, _number(part.item)][1] for part in parts for _ in range(part.count)])
        return found

    def _table(self, group: int, blocks: Sequence[int]) -> _Table:
        addresses = [0 if number == DROPPED_BLOCK else self._address((group, number)) for number in blocks]
        return (ctypes.c_void_p * len(blocks))(*addresses)

    def _address(self, block: BlockId) -> int:
        """The start of a block in memory, which is allocated at its first use."""
        if block not in self._blocks:
            self._blocks[block] = torch.empty(self._shapes[block[0]], dtype=self._step.dtype)
        return self._blocks[block].data_ptr()


def _number(item: StepInput) -> int:
    return item.work.sequence.number


def _adapter_key(item: StepInput) -> tuple[bytes, int]:
    return b"" if item.adapter is None else item.adapter.key, _number(item)


def _scored(item: StepInput, logits: Tensor) -> list[TokenLogprob]:
    return prompt_logprobs(logits, item.work.start, item.work.sequence, item.top)


def _parts(inputs: Sequence[StepInput]) -> tuple[list[_Part], list[_Part]]:
    """The tokens of answers, of which there may be many after a preemption, and those of prompts."""
    answers, prompts = [], []
    for item in inputs:
        start, stop = item.work.start, item.work.stop
        first = min(max(start, item.work.sequence.prompt_tokens), stop)
        if first < stop:
            answers.append(_Part(item, first, stop))
        if start < first:
            prompts.append(_Part(item, start, first))
    return answers, prompts


def _wanted(inputs: Sequence[StepInput], parts: Sequence[_Part]) -> list[list[int]]:
    """The rows of each input whose logits are wanted, in the order of the tokens."""
    rows: dict[int, list[int]] = {_number(item): [] for item in inputs}
    first = sum(part.count for part in parts)
    for part in reversed(parts):  # an input's prompt comes before its answer
        first -= part.count
        rows[_number(part.item)] += range(first, first + part.count)
    kept = {Wanted.NONE: slice(0, 0), Wanted.LAST: slice(-1, None), Wanted.ALL: slice(None)}
    return [rows[_number(item)][kept[item.wanted]] for item in inputs]


def _segments(parts: Sequence[_Part]) -> list[Segment]:
    """The rows of each adapter; parts of one adapter are neighbours."""
    found: list[Segment] = []
    start = 0
    for part in parts:
        stop = start + part.count
        factors = None if part.item.adapter is None else part.item.adapter.factors
        if factors is not None:
            if found and found[-1].stop == start and found[-1].factors is factors:
                found[-1] = Segment(found[-1].start, stop, factors)
            else:
                found.append(Segment(start, stop, factors))
        start = stop
    return found
