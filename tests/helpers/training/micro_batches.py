"""Micro-batches of documents that hold nothing."""

from __future__ import annotations

import torch

from veneer.data.micro_batches.batches import MicroBatch


def micro_batch(tokens: int) -> MicroBatch:
    """One document of so many tokens, without targets."""
    laid, none = torch.arange(tokens), torch.tensor([], dtype=torch.int64)
    return MicroBatch(laid, laid, shared=0, lengths=(tokens,), filler=0, targets=none, rows=none)
