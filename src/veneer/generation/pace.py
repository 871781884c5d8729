"""Estimates how much of a batch of answers is done, so that the time left is known before many have ended.

Answers that begin together end in bunches. Counted only by those that have ended, a batch of two hundred would be at
zero for most of its time, and the first short answer would suggest that each of the others takes as long as all of
them together took until then.
"""

from __future__ import annotations

from collections.abc import Sequence

from veneer.generation.request import GenerationRequest

PROMPT_SHARE = 0.25
"""The cost of a prompt token relative to that of an answer's token in a batch."""


class Pace:
    """Counts the tokens of answers to requests.

    Args:
        requests: all that will be answered.
    """

    def __init__(self, requests: Sequence[GenerationRequest]):
        self._prompts = [PROMPT_SHARE * len(request.prompt) for request in requests]
        self._most = [request.sampling.max_new_tokens for request in requests]
        self._made: dict[int, int] = {}
        self.tokens = 0
        """The number of tokens of all answers."""
        self.answers = 0
        """The number of answers that have ended."""

    def made(self, row: int) -> None:
        """Record a token of an answer."""
        self._made[row] = self._made.get(row, 0) + 1
        self.tokens += 1

    def ended(self, row: int) -> None:
        """Record that an answer is complete."""
        self._made.pop(row, None)
        self.answers += 1

    def under_way(self) -> float:
        """The work done for answers that have begun and not ended, counted in answers; 0 until one has ended.

        The length of an answer is taken to be all tokens made over all answers ended. If an answer ends at every token
        with the same chance, this is the most likely mean length, given that unfinished answers are only known to be
        longer than they are now. Until many answers have ended, the estimate is too long.
        """
        if not self.answers:
            return 0.0
        mean = self.tokens / self.answers
        return sum(self._share(row, made, mean) for row, made in self._made.items())

    def _share(self, row: int, made: int, mean: float) -> float:
        expected = min(max(mean, made + 1), self._most[row])
        return min(1.0, (self._prompts[row] + made) / (self._prompts[row] + expected))
