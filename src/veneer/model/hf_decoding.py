"""Decoding with a model of transformers: with its own cache, or by computing all tokens in each step."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from veneer.errors import ModelError
from veneer.model.decoding import grown, last_of_each
from veneer.model.hf_lengths import AnglesByLength


def call_body(base: Any, arguments: dict[str, Any]) -> Any:
    """Call the body of a model and return its output.

    Raises:
        ModelError: a row is longer than the model has learned positions, or the model's code reads the weight of a
            quantised or adapted layer directly, without calling the layer.
    """
    try:
        return base(**arguments, return_dict=True)
    except IndexError as error:
        length = _longest(arguments)
        most = getattr(base.config, "max_position_embeddings", "some")
        raise ModelError(
            f"model_type {base.config.model_type!r} has {most} positions, but a row has {length} tokens or more "
            f"({error}); use shorter rows (data.max_length), or fewer new tokens"
        ) from error
    except AttributeError as error:
        raise ModelError(
            f"model_type {base.config.model_type!r} reads a layer's weight directly, in `{_line(error)}` ({error}): "
            "an update on it would have no effect, and codes would be read as weights. Leave the "
            "layer out of the adapter by lora.exclude_modules, or of a quantised base by quant.skip_modules"
        ) from error


def _longest(arguments: dict[str, Any]) -> int:
    """Tokens of the longest row, with those in the cache."""
    mask: Tensor | None = arguments.get("attention_mask")
    return int(arguments["input_ids"].shape[1] if mask is None else mask.sum(1).max())


def _line(error: Exception) -> str:
    """The innermost line of code outside of torch that an error came from."""
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if "/torch/" not in frame.filename]
    return (lines[-1] if lines else None) or "unknown code"


@dataclass(slots=True)
class HfCachedDecoding:
    """Decoding with transformers' cache.

    Prompts are padded on the left: the new tokens of all rows are in one column, and distances within a row are those
    without padding.
    """

    body: Callable[[dict[str, Any]], Any]
    """Calls the body with these arguments."""
    accepted: frozenset[str]
    logits: Callable[[Tensor], Tensor]
    capacity: int
    """The largest number of tokens of a row. A row that has ended but is still in the batch stays at its last
    position."""
    mask: Tensor | None = None
    cache: Any = None

    def prefill(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Logits of each prompt's last token; see `Decoding`."""
        width = max(lengths)
        rows = [nn.functional.pad(row, (width - len(row), 0)) for row in torch.split(tokens, list(lengths))]
        counts = torch.tensor(lengths, device=tokens.device)
        self.mask = (torch.arange(width, device=tokens.device) >= width - counts[:, None]).long()
        return self._run(torch.stack(rows), (self.mask.cumsum(1) - 1).clamp(min=0))

    def step(self, tokens: Tensor) -> Tensor:
        """Logits of one more token a row; see `Decoding`."""
        assert self.mask is not None
        positions = self.mask.sum(1, keepdim=True).clamp(max=self.capacity - 1)
        self.mask = torch.cat((self.mask, self.mask.new_ones(len(tokens), 1)), 1)
        return self._run(tokens[:, None], positions)

    def widths(self) -> list[int]:
        """One token a row; see `Decoding`."""
        assert self.mask is not None
        return [1] * len(self.mask)

    def _run(self, tokens: Tensor, positions: Tensor) -> Tensor:
        arguments = {"input_ids": tokens, "attention_mask": self.mask, "cache": self.cache, "use_cache": True}
        if "position_ids" in self.accepted:
            arguments["position_ids"] = positions
        output = self.body(arguments)
        self.cache = output.cache
        return self.logits(cast(Tensor, output.last_hidden_state[:, -1]))

    def keep(self, rows: Tensor) -> None:
        """Drop the other rows; see `Decoding`."""
        assert self.mask is not None
        self.mask = self.mask[rows]
        self.cache.reorder_cache(rows)


@dataclass(slots=True)
class _Alike:
    """Rows that share a cache, because their lengths have equal angles."""

    decoding: HfCachedDecoding
    rows: list[int]
    """Numbers of the rows, in the order of the cache."""


@dataclass(slots=True)
class HfDecodingByLength:
    """Decoding with transformers' cache if the angles of rotary positions depend on a text's length.

    When the angles of a text change, its cached keys become invalid. That step computes the text again, in a batch with
    only those texts whose angles change to the same ones in this step.
    """

    begin: Callable[[], HfCachedDecoding]
    angles: AnglesByLength
    capacity: int
    texts: list[Tensor] = field(default_factory=list)
    groups: list[_Alike] = field(default_factory=list)

    def prefill(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Logits of each prompt's last token; see `Decoding`."""
        self.texts, self.groups = list(torch.split(tokens, list(lengths))), []
        return _in_order(self._begin(range(len(lengths))))

    def widths(self) -> list[int]:
        """One token per row, or a whole text if its angles change; see `Decoding`."""
        return [len(text) + 1 if self._changes(len(text)) else 1 for text in self.texts]

    def step(self, tokens: Tensor) -> Tensor:
        """Logits of one more token a row; see `Decoding`."""
        anew = [row for row, text in enumerate(self.texts) if self._changes(len(text))]
        if anew:
            self._leave(set(anew))
        by_row: dict[int, Tensor] = {}
        for group in self.groups:
            logits = group.decoding.step(tokens[torch.tensor(group.rows, device=tokens.device)])
            by_row |= dict(zip(group.rows, logits, strict=True))
        self.texts = grown(self.texts, tokens, self.capacity)
        return _in_order(by_row | self._begin(anew))

    def keep(self, rows: Tensor) -> None:
        """Drop the other rows; see `Decoding`."""
        kept: list[int] = rows.tolist()
        self._leave(set(range(len(self.texts))) - set(kept))
        self.texts = [self.texts[row] for row in kept]
        for group in self.groups:
            group.rows = [kept.index(row) for row in group.rows]

    def _changes(self, length: int) -> bool:
        """Whether one token more changes the angles of a text of this length."""
        return length < self.capacity and self.angles.of(length) != self.angles.of(length + 1)

    def _begin(self, rows: Sequence[int]) -> dict[int, Tensor]:
        """Compute whole texts; returns the logits of each one's last token."""
        by_row: dict[int, Tensor] = {}
        for alike in self.angles.alike([len(self.texts[row]) for row in rows]):
            group = _Alike(self.begin(), [rows[place] for place in alike])
            texts = [self.texts[row] for row in group.rows]
            logits = group.decoding.prefill(torch.cat(texts), [len(text) for text in texts])
            by_row |= dict(zip(group.rows, logits, strict=True))
            self.groups.append(group)
        return by_row

    def _leave(self, rows: set[int]) -> None:
        """Drop rows from the caches that they are in."""
        for group in self.groups:
            stay = [place for place, row in enumerate(group.rows) if row not in rows]
            if stay and len(stay) < len(group.rows):
                group.decoding.keep(torch.tensor(stay, device=self.texts[0].device))
            group.rows = [group.rows[place] for place in stay]
        self.groups = [group for group in self.groups if group.rows]


def _in_order(logits: dict[int, Tensor]) -> Tensor:
    return torch.stack([logits[row] for row in range(len(logits))])


@dataclass(slots=True)
class HfUncachedDecoding:
    """Decoding without a cache, for classes whose state is not keys and values: each step computes all tokens."""

    documents: Callable[[Tensor, Tensor, Sequence[int]], Tensor]
    logits: Callable[[Tensor], Tensor]
    capacity: int
    rows: list[Tensor] | None = None

    def prefill(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Logits of each prompt's last token; see `Decoding`."""
        self.rows = list(torch.split(tokens, list(lengths)))
        return self._run()

    def step(self, tokens: Tensor) -> Tensor:
        """Logits of one more token a row; see `Decoding`."""
        assert self.rows is not None
        self.rows = grown(self.rows, tokens, self.capacity)
        return self._run()

    def widths(self) -> list[int]:
        """All tokens of each row; see `Decoding`."""
        assert self.rows is not None
        return [len(row) + 1 for row in self.rows]

    def _run(self) -> Tensor:
        assert self.rows is not None
        lengths = [len(row) for row in self.rows]
        positions = torch.cat([torch.arange(length, device=self.rows[0].device) for length in lengths])
        hidden = self.documents(torch.cat(self.rows), positions, lengths)
        return self.logits(last_of_each(hidden, lengths))

    def keep(self, rows: Tensor) -> None:
        """Drop the other rows; see `Decoding`."""
        assert self.rows is not None
        self.rows = [self.rows[row] for row in rows.tolist()]
