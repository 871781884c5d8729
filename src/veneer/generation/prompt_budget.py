"""How many tokens of prompts a step takes, so that they take no longer than the limits say.

A token of a prompt and a next token take different times: many tokens of a prompt share what is read of a weight, and
on most processors a faster product. Judged by all tokens of a step alike, steps of many next tokens left a prompt a
third of what there was time for.
"""

from __future__ import annotations

import math

from veneer.generation.scheduler import Limits

LEAST_PROMPT_TOKENS = 16
"""Tokens of prompts that a step takes however long they take, and of a step that tells how long a token takes."""


class PromptBudget:
    """Judges by the steps that were computed.

    Args:
        limits: the most tokens, and the seconds that they may take; without seconds the budget is always the most.
    """

    def __init__(self, limits: Limits):
        self._limits = limits
        self._next_tokens, self._next_seconds = 1, 0.0
        self.tokens = limits.prompt_tokens
        """Tokens of prompts for the next step."""

    def computed(self, prompt_tokens: int, next_tokens: int, seconds: float) -> None:
        """Take note of a step: of its tokens of prompts, its next tokens, and what it took."""
        if self._limits.prompt_seconds is None:
            return
        if not prompt_tokens and next_tokens:
            self._next_tokens, self._next_seconds = next_tokens, seconds
        elif prompt_tokens >= LEAST_PROMPT_TOKENS:
            # More next tokens than in the last step without prompts count as those did: rather too few of prompts.
            beside = self._next_seconds * min(1.0, next_tokens / self._next_tokens)
            each = max(seconds - beside, seconds / 10, 1e-6) / prompt_tokens
            affordable = math.floor(self._limits.prompt_seconds / each)
            self.tokens = min(self._limits.prompt_tokens, max(LEAST_PROMPT_TOKENS, affordable))
