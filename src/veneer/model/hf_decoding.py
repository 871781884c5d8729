"""Decoding with a model of transformers: with its own cache, or by computing all tokens in each step."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from veneer.errors import ModelError


def call_body(base: Any, arguments: dict[str, Any]) -> Any:
    """Call the body of a model and return its output.

    Raises:
        ModelError: a row is longer than the model has learned positions, or the model's code reads the weight of a
            quantised or adapted layer directly, without calling the layer.
    """
    try:
        return base(**arguments, return_dict=True)
    except IndexError as error:
        length = arguments["input_ids"].shape[1]
        most = getattr(base.config, "max_position_embeddings", "some")
        raise ModelError(
            f"model_type {base.config.model_type!r} has {most} positions, and a row has {length} tokens or more "
            f"({error}); take shorter rows (data.max_length), or fewer new tokens"
        ) from error
    except AttributeError as error:
        raise ModelError(
            f"model_type {base.config.model_type!r} reads a layer's weight by itself, in `{_line(error)}` ({error}): "
            "an update on it would have no effect, and codes would be read as weights. Leave the "
            "layer out of the adapter by lora.exclude_modules, or of a quantised base by quant.skip_modules"
        ) from error


def _line(error: Exception) -> str:
    """The innermost line of code outside of torch that an error came from."""
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if "/torch/" not in frame.filename]
    return (lines[-1] if lines else None) or "unknown code"


@dataclass(slots=True)
class HfCachedDecoding:
    """Decoding with transformers' cache.

    Prompts are padded on the left: the new tokens of all rows stand in one column, and distances within a row are those
    without padding.
    """

    base: Any
    accepted: frozenset[str]
    logits: Callable[[Tensor], Tensor]
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
        positions = self.mask.sum(1, keepdim=True)
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
        found = call_body(self.base, arguments)
        self.cache = found.cache
        return self.logits(cast(Tensor, found.last_hidden_state[:, -1]))

    def keep(self, rows: Tensor) -> None:
        """Drop the other rows; see `Decoding`."""
        assert self.mask is not None
        self.mask = self.mask[rows]
        self.cache.reorder_cache(rows)


@dataclass(slots=True)
class HfUncachedDecoding:
    """Decoding without a cache, for classes whose state is not keys and values: each step computes all tokens."""

    documents: Callable[[Tensor, Tensor, Sequence[int]], Tensor]
    logits: Callable[[Tensor], Tensor]
    rows: list[Tensor] | None = None

    def prefill(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Logits of each prompt's last token; see `Decoding`."""
        self.rows = list(torch.split(tokens, list(lengths)))
        return self._run()

    def step(self, tokens: Tensor) -> Tensor:
        """Logits of one more token a row; see `Decoding`."""
        assert self.rows is not None
        self.rows = [torch.cat((row, token[None])) for row, token in zip(self.rows, tokens, strict=True)]
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
        return self.logits(hidden[torch.tensor(lengths, device=hidden.device).cumsum(0) - 1])

    def keep(self, rows: Tensor) -> None:
        """Drop the other rows; see `Decoding`."""
        assert self.rows is not None
        self.rows = [self.rows[row] for row in rows.tolist()]
