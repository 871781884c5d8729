"""Steps through a model's own modules: sequences that begin together decode together, with their own cache.

This computes what the compiled step does not support: other devices, transformers' models, adapters that change more
than linear layers. A sequence may join at any step, and begins a new batch then.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from veneer.generation.blocks import BlockGroup, BlockId
from veneer.generation.logprobs import prompt_logprobs
from veneer.generation.request import TokenLogprob
from veneer.generation.runner import LoadedAdapter, StepInput, StepOutput, Wanted
from veneer.generation.sampling import likeliest
from veneer.generation.sequence import Placement
from veneer.gpu.transfer import sent
from veneer.model.language import Decoding, LanguageModel
from veneer.quant.packed import decoded_weights

DECODED_LIMIT = 10**9
"""A 4-bit model whose weights take at most this many bytes when decoded is decoded once."""
KEEP_SHARE = 0.75
"""Dropping rows copies the cache, so it waits until less than this share of them is left."""
SCORED_TOKENS = 256
"""The number of prompt tokens whose logits are made and held at once."""
SHORT_TOKENS = 256
"""Tokens that the longest sequence of a cohort may have more than twice its shortest."""


class Router(Protocol):
    """Tells a model with several adapters which adapter each row is under
    (`adapters.adapter_set.AdapterSet.by_row`)."""

    def group(self, row: int) -> str:
        """Rows of one group are computed best side by side."""
        ...

    def lay(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Announce that the next pass holds this many tokens of each of these rows, in this order."""
        ...


@dataclass(slots=True)
class _Cohort:
    """Sequences that decode together."""

    decoding: Decoding
    rows: list[int]
    """Numbers of the sequences, in the order of the cache's rows."""
    ended: set[int] = field(default_factory=set)
    """Sequences among them that have ended, or continue elsewhere, and whose rows are not dropped yet."""


class CohortRunner:
    """Computes the steps of a model batch by batch.

    Args:
        model: the base.
        block_tokens: tokens that the scheduler counts as a block.
        router: for a model with several adapters, is notified before every pass of the sequences in it.
    """

    def __init__(self, model: LanguageModel, block_tokens: int, router: Router | None = None):
        self._model, self._router = model, router
        self._groups = (BlockGroup(model.row_bytes(block_tokens), None),)
        self._cohorts: list[_Cohort] = []
        self._decoded: ExitStack | None = None

    @property
    def groups(self) -> tuple[BlockGroup, ...]:
        """See `Runner.groups`."""
        return self._groups

    @property
    def outgrown(self) -> frozenset[int]:
        """None: `Decoding.step` recomputes such text itself."""
        return frozenset()

    @property
    def prompts_apart(self) -> bool:
        """See `Runner.prompts_apart`; nothing is shared, so that it does not matter."""
        return False

    def placement(self, adapter: LoadedAdapter | None) -> Placement:
        """See `Runner.placement`."""
        return Placement.COHORT

    @torch.no_grad()
    def compute(self, inputs: Sequence[StepInput], dropped: Sequence[BlockId] = ()) -> list[StepOutput | None]:
        """See `Runner.compute`."""
        found: dict[int, StepOutput] = {}
        by_number = {item.work.sequence.number: item for item in inputs}
        fresh = {number for number, item in by_number.items() if item.work.start == 0}
        self._forget(by_number.keys() - fresh)
        for cohort in self._cohorts:
            self._lay(cohort.rows, cohort.decoding.widths())
            going = {row: by_number[row] for row in cohort.rows if row not in cohort.ended}
            works = [going[row].work if row in going else None for row in cohort.rows]
            tokens = [0 if work is None else work.sequence.tokens[work.start] for work in works]
            logits = cohort.decoding.step(sent(torch.tensor(tokens), self._model.device))
            found |= {row: output for row, output in zip(cohort.rows, _outputs(logits), strict=True) if row in going}
        begun: dict[bytes | None, list[StepInput]] = {}
        for item in inputs:
            if item.work.start == 0:
                begun.setdefault(None if item.adapter is None else item.adapter.key, []).append(item)
        for items in begun.values():
            for similar in _by_capacity(items):
                found |= self._begin(similar)
        return [
            None if item.wanted is Wanted.NONE else self._wanted(item, found[item.work.sequence.number])
            for item in inputs
        ]

    def close(self) -> None:
        """See `Runner.close`."""
        self._forget(set())
        if self._decoded is not None:
            self._decoded.close()
            self._decoded = None

    def _forget(self, kept: set[int]) -> None:
        """Drop what has ended: whole cohorts at once, rows once a quarter of their cohort has ended."""
        for cohort in self._cohorts:
            # A sequence that was preempted may come back in another cohort: its old row must not be mistaken for it.
            cohort.ended |= set(cohort.rows) - kept
            left = [place for place, row in enumerate(cohort.rows) if row not in cohort.ended]
            if not left:
                cohort.rows = []
            elif len(left) <= KEEP_SHARE * len(cohort.rows):
                cohort.decoding.keep(torch.tensor(left, device=self._model.device))
                cohort.rows = [cohort.rows[place] for place in left]
        self._cohorts = [cohort for cohort in self._cohorts if cohort.rows]

    def _begin(self, items: Sequence[StepInput]) -> dict[int, StepOutput]:
        """Prefill the prompts of sequences of one adapter; returns the outputs for their last tokens."""
        model = self._model_of(items[0].adapter)
        sequences = [item.work.sequence for item in items]
        if self._router is not None:
            groups = {sequence.number: self._router.group(sequence.number) for sequence in sequences}
            sequences.sort(key=lambda sequence: groups[sequence.number])
        decoding = model.decoding(len(items), max(sequence.capacity for sequence in sequences))
        if self._decoded is None:
            self._decoded = ExitStack()
            self._decoded.enter_context(decoded_weights(self._model.modules(), self._model.dtype, DECODED_LIMIT))
        # What a sequence has answered before it was preempted comes behind, a token a step.
        tokens = [token for sequence in sequences for token in sequence.tokens[: sequence.prompt_tokens]]
        lengths = [sequence.prompt_tokens for sequence in sequences]
        self._lay([sequence.number for sequence in sequences], lengths)
        logits = decoding.prefill(torch.tensor(tokens, device=model.device), lengths)
        self._cohorts.append(_Cohort(decoding, [sequence.number for sequence in sequences]))
        return dict(zip((sequence.number for sequence in sequences), _outputs(logits), strict=True))

    def _lay(self, numbers: Sequence[int], tokens: Sequence[int]) -> None:
        if self._router is not None:
            self._router.lay(numbers, tokens)

    def _wanted(self, item: StepInput, last: StepOutput) -> StepOutput:
        if item.wanted is Wanted.LAST:
            return last
        model, sequence = self._model_of(item.adapter), item.work.sequence
        tokens = sequence.tokens
        given = torch.tensor(tokens, device=model.device)
        hidden = model.documents(given, torch.arange(len(tokens), device=model.device), [len(tokens)])
        scored: list[TokenLogprob] = []
        # Logits of a long prompt are gigabytes: they are made in pieces, and no piece is kept.
        for start in range(0, len(tokens) - 1, SCORED_TOKENS):
            stop = min(start + SCORED_TOKENS, len(tokens) - 1)
            scored += prompt_logprobs(model.logits(hidden[start:stop]).float(), start, sequence, item.top)
        return StepOutput(last.logits, last.likeliest, scored)

    def _model_of(self, adapter: LoadedAdapter | None) -> LanguageModel:
        if adapter is None:
            return self._model
        assert adapter.model is not None
        return adapter.model


def _outputs(logits: Tensor) -> list[StepOutput]:
    """The output of each row of logits `[rows, vocab]`."""
    wide = logits.float()
    return [StepOutput(wide[row : row + 1], token) for row, token in enumerate(likeliest(wide))]


def _by_capacity(items: Sequence[StepInput]) -> list[list[StepInput]]:
    """The inputs in parts of similar capacity, since every row of a cohort's cache is as long as its longest one."""
    parts: list[list[StepInput]] = []
    for item in sorted(items, key=lambda item: item.work.sequence.capacity):
        if parts and item.work.sequence.capacity <= 2 * parts[-1][0].work.sequence.capacity + SHORT_TOKENS:
            parts[-1].append(item)
        else:
            parts.append([item])
    return parts
