"""Encoded rows, made of tokens."""

from __future__ import annotations

import numpy as np

from veneer.data.encoded.chat import Example


def example(tokens: list[int], mask: list[int] | None = None, where: str = "f:1") -> Example:
    flags = np.array([0, *[1] * (len(tokens) - 1)] if mask is None else mask, dtype=np.bool_)
    return Example(np.array(tokens, dtype=np.int32), flags, where)


def answered(prompt: list[int], answer: list[int]) -> Example:
    tokens = np.array([*prompt, *answer], dtype=np.int32)
    return Example(tokens, np.arange(len(tokens)) >= len(prompt), "f:1")
