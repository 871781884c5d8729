"""Rewards of answers to sums, called as TRL calls rewards."""

from __future__ import annotations

import re


def says_the_number(completions: list[str], answer: list[str]) -> list[float]:
    """1 for an answer whose last number is the right one, 0 for others."""
    return [float(re.findall(r"-?\d+", text)[-1:] == [right]) for text, right in zip(completions, answer, strict=True)]


def is_short(completions: list[str]) -> list[float]:
    """1 for an empty answer, falling to 0 for one of 100 characters."""
    return [max(0.0, 1.0 - len(text) / 100) for text in completions]
