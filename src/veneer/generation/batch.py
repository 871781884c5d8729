"""Batched generation with a cache: many prompts at once, each ending on its own.

Prompts of similar length run together, without padding; a row that has ended leaves the batch. A row's tokens depend
on its prompt, the settings and its own random stream alone, never on which rows it shared a batch with (beyond the
rounding of products of another height).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from veneer.errors import ConfigError, DataError, listing
from veneer.generation.sampling import Sampling, adjusted, choose
from veneer.model.language import Decoding, LanguageModel
from veneer.model.precomputed import precomputed
from veneer.quant.packed import decoded_weights


class Router(Protocol):
    """Tells a model that has several adapters whose tokens it computes (`adapters.adapter_set.AdapterSet.by_row`)."""

    def group(self, row: int) -> str:
        """Rows of one group are computed best side by side."""
        ...

    def lay(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """The next pass holds so many tokens of each of these rows, in this order."""
        ...


OnToken = Callable[[int, int], None]
"""Called with the index of a prompt and its next token, as it comes."""

BATCH_ROWS = 192
"""Most rows that are decoded together."""
CACHE_LIMIT = 10**9
"""Bytes that the cache of a batch may take; fewer rows are decoded together where theirs would take more."""
DECODED_LIMIT = 10**9
"""A 4-bit model whose weights take at most this many bytes when decoded is decoded once for a whole call."""


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    stop_ids: frozenset[int],
    on_token: OnToken = lambda row, token: None,
    on_done: Callable[[int], None] = lambda rows: None,
    batch_rows: int | None = None,
    router: Router | None = None,
) -> list[list[int]]:
    """Continue every prompt until a stop token, or `max_new_tokens`.

    Args:
        model: base, or base with adapter.
        prompts: token ids, at least one each.
        sampling: how tokens are chosen.
        stop_ids: tokens that end a row; they are not part of the result.
        on_token: told of every new token (streaming).
        on_done: told how many rows have ended, as they end (progress).
        batch_rows: rows decoded together, a matter of memory and speed; by default as many as `BATCH_ROWS` and
            `CACHE_LIMIT` allow.
        router: where the prompts are under several adapters, says which is under which, by its index.

    Returns:
        The new tokens of each prompt, in the order of `prompts`.

    Raises:
        ConfigError: `max_new_tokens` is more than the model's context.
        DataError: a prompt has no token; all such are named.
    """
    empty = [f"prompt {row}" for row, prompt in enumerate(prompts) if not prompt]
    if empty:
        raise DataError(f"there is nothing to continue, give at least one token:\n{listing(empty)}")
    if sampling.max_new_tokens > model.spec.max_positions:
        raise ConfigError(
            f"max_new_tokens: {sampling.max_new_tokens:,}, but the model's context has {model.spec.max_positions:,} "
            "tokens, the prompt included; give fewer"
        )
    was_training = model.training
    model.eval()
    results: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda row: (-len(prompts[row]), row))
    try:
        with precomputed(model.modules()):
            size = batch_rows or rows_that_fit(model, prompts, sampling.max_new_tokens)
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                if router is not None:
                    rows.sort(key=router.group)
                capacity = max(len(prompts[row]) for row in rows) + sampling.max_new_tokens
                decoding = model.decoding(len(rows), capacity)
                with decoded_weights(model.modules(), model.dtype, DECODED_LIMIT if decoding.decodes_weights else 0):
                    batch = _Batch(model, decoding, [prompts[row] for row in rows], rows, sampling, stop_ids, router)
                    while batch.rows:
                        going = len(batch.rows)
                        for row, token in batch.step():
                            results[row].append(token)
                            on_token(row, token)
                        on_done(going - len(batch.rows))
    finally:
        model.train(was_training)
    return results


def rows_that_fit(model: LanguageModel, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> int:
    """Rows that may be decoded together: at least one, at most `BATCH_ROWS`, with a cache of at most `CACHE_LIMIT`."""
    capacity = max((len(prompt) for prompt in prompts), default=0) + max_new_tokens
    return max(1, min(BATCH_ROWS, CACHE_LIMIT // model.row_bytes(capacity)))


class _Batch:
    """Rows in flight: their cache, their next tokens, and how many each has made."""

    def __init__(
        self,
        model: LanguageModel,
        decoding: Decoding,
        prompts: list[Sequence[int]],
        rows: list[int],
        sampling: Sampling,
        stop_ids: frozenset[int],
        router: Router | None,
    ):
        self.rows = rows
        self._router = router
        self._device, self._sampling, self._stop_ids = model.device, sampling, stop_ids
        self._generators = {row: torch.Generator().manual_seed(sampling.seed * 1_000_003 + row) for row in rows}
        self._prompts = dict(zip(rows, prompts, strict=True))
        self._answers: dict[int, list[int]] = {row: [] for row in rows}
        self._made = 0
        self._finished: set[int] = set()
        self._slots = list(rows)
        self._decoding = decoding
        self._logits = self._prefill(prompts)

    def _prefill(self, prompts: list[Sequence[int]]) -> Tensor:
        lengths = [len(prompt) for prompt in prompts]
        tokens = torch.tensor([token for prompt in prompts for token in prompt], device=self._device)
        self._lay(lengths)
        return self._decoding.prefill(tokens, lengths)

    def step(self) -> list[tuple[int, int]]:
        """Choose each row's next token and run it; returns `(row, token)` of the rows that go on."""
        if self._sampling.plain:
            tokens = self._logits.argmax(-1)
        else:
            tokens = torch.tensor([self._chosen(slot) for slot in range(len(self._slots))], device=self._device)
        self._made += 1
        new = []
        for row, token in zip(self._slots, tokens.tolist(), strict=True):
            if row in self._finished:
                continue
            if token in self._stop_ids:
                self._finished.add(row)
                continue
            new.append((row, token))
            self._answers[row].append(token)
            if self._made == self._sampling.max_new_tokens:
                self._finished.add(row)
        self.rows = [row for row in self._slots if row not in self._finished]
        if self.rows:
            tokens = self._compact(tokens)
            self._lay(self._decoding.widths())
            self._logits = self._decoding.step(tokens)
        return new

    def _chosen(self, slot: int) -> int:
        row = self._slots[slot]
        scores = adjusted(self._logits[slot], self._sampling, self._prompts[row], self._answers[row])
        return choose(scores, self._sampling, self._generators[row])

    def _lay(self, tokens: Sequence[int]) -> None:
        if self._router is not None:
            self._router.lay(self._slots, tokens)

    def _compact(self, tokens: Tensor) -> Tensor:
        # Dropping rows copies the cache, so it waits until a quarter of them has ended.
        if len(self.rows) > 0.75 * len(self._slots):
            return tokens
        kept = torch.tensor(
            [slot for slot, row in enumerate(self._slots) if row not in self._finished], device=tokens.device
        )
        self._decoding.keep(kept)
        self._slots = list(self.rows)
        return tokens[kept]
