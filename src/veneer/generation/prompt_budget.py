"""The number of prompt tokens in a step, chosen so that they take no longer than the limits allow.

A token of a prompt and a next token take different times: many tokens of a prompt share what is read of a weight, and
on most processors a faster product. If all tokens of a step counted alike, steps with many next tokens would leave a
prompt a third of the time that it could have.
"""

from __future__ import annotations

import math

from veneer.generation.scheduler import Limits

LEAST_PROMPT_TOKENS = 16
"""The prompt tokens that a step always computes, however slow, and the least in a step that is used to measure the time
of a token."""


class PromptBudget:
    """Decides by the steps that were computed.

    Args:
        limits: the most tokens, and the seconds that they may take; without seconds the budget is always the most
            tokens.
    """

    def __init__(self, limits: Limits):
        self._limits = limits
        self._next_tokens, self._next_seconds = 1, 0.0
        self.tokens = limits.prompt_tokens
        """The number of prompt tokens for the next step."""

    def computed(self, prompt_tokens: int, next_tokens: int, seconds: float) -> None:
        """Record a step: its prompt tokens, its next tokens, and its seconds."""
        if self._limits.prompt_seconds is None:
            return
        if not prompt_tokens and next_tokens:
            self._next_tokens, self._next_seconds = next_tokens, seconds
        elif prompt_tokens >= LEAST_PROMPT_TOKENS:
            # Next tokens beyond those of the last step without prompts count like these, which rather underestimates
            # the budget.
            beside = self._next_seconds * min(1.0, next_tokens / self._next_tokens)
            each = max(seconds - beside, seconds / 10, 1e-6) / prompt_tokens
            affordable = math.floor(self._limits.prompt_seconds / each)
            self.tokens = min(self._limits.prompt_tokens, max(LEAST_PROMPT_TOKENS, affordable))
