"""Partners: the other rows whose answers follow a row's prompt, from which KTO's reference point is estimated.

The partner of a row is determined by the rows of its step and the seed.

A long answer of another row may make a text longer than any row. The memory is not planned for such a text, and the
model's context need not suffice. So it is cut, such that it is no longer than the longest row of the run. TRL does not
cut it: K deviates from TRL's in steps that have such a text, and only there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.orders import order
from veneer.data.micro_batches.prompt_groups import prompt_length

STREAM = 2**30
"""A stream of random numbers that differs from those of the epochs and of held-out rows."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Prompts with partners' answers, each text once."""

    examples: list[Example]
    uses: list[int]
    """The index of its example, for each row with a partner."""


@lru_cache(maxsize=1)
def _ranks(rows: int, seed: int) -> NDArray[np.int64]:
    """The place of each row of a run in the order in which partners are found, `[rows]`."""
    return np.argsort(order(rows, seed=seed, epoch=STREAM))


def _kinds(texts: Sequence[NDArray[np.int32]]) -> list[int]:
    """A number for each text; equal texts share one."""
    known: dict[bytes, int] = {}
    return [known.setdefault(text.tobytes(), len(known)) for text in texts]


def _runs(kinds: Sequence[int]) -> list[int]:
    """For each place of a ring, the distance to the next place of another kind; the length of the ring if there is
    none."""
    count = len(kinds)
    distances = [count] * count
    length = count
    for place in range(2 * count - 1, -1, -1):  # twice around: the run at the end may continue at the beginning
        own, following = kinds[place % count], kinds[(place + 1) % count]
        length = 1 if own != following else min(length + 1, count)
        distances[place % count] = length
    return distances


@dataclass(frozen=True, slots=True)
class Partners:
    """Which other answer follows the prompt of a row, to estimate how far the policy has moved.

    Args:
        examples: the examples of the run, training examples first.
        longest: the number of tokens of the longest example, which no prompt with another answer exceeds.
    """

    examples: Sequence[Example]
    seed: int
    longest: int

    @classmethod
    def among(cls, examples: Sequence[Example], seed: int) -> Partners:
        """The partners among the examples of a run."""
        return cls(examples, seed, max((len(example.tokens) for example in examples), default=0))

    def of(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """The rows of a step that have a partner, each with its partner, as places of examples.

        In an order that the seed gives, every row takes the answer of the next row whose prompt and answer both differ.
        The partners depend on the rows of the step, and not on how it is cut.
        """
        rank = _ranks(len(self.examples), self.seed)
        ring = sorted(numbers, key=lambda number: int(rank[number]))
        parted = [self._parted(number) for number in ring]
        prompts, answers = _kinds([prompt for prompt, _ in parted]), _kinds([answer for _, answer in parted])
        prompt_runs, answer_runs = _runs(prompts), _runs(answers)
        pairs = []
        for place, number in enumerate(ring):
            step = 1
            while step < len(ring):
                other = (place + step) % len(ring)
                # All rows may have one prompt, or one answer: consecutive ones are skipped at once.
                if prompts[other] == prompts[place]:
                    step += prompt_runs[other]
                elif answers[other] == answers[place]:
                    step += answer_runs[other]
                else:
                    pairs.append((number, ring[other]))
                    break
        return pairs

    def _parted(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        example = self.examples[number]
        start = prompt_length(example)
        return example.tokens[:start], example.tokens[start:]

    def texts(self, pairs: Sequence[tuple[int, int]]) -> Texts:
        """The texts to compute for some rows and their partners; several pairs may share one."""
        known: dict[tuple[bytes, bytes], int] = {}
        examples, uses = list[Example](), list[int]()
        for number, partner in pairs:
            text = self.joined(number, partner)
            key = text.tokens.tobytes(), text.loss_mask.tobytes()
            if key not in known:
                known[key] = len(examples)
                examples.append(text)
            uses.append(known[key])
        return Texts(examples, uses)

    def joined(self, number: int, partner: int) -> Example:
        """A row's prompt with its partner's answer, cut to the length of the longest row."""
        prompt, answer = self._parted(number)[0], self._parted(partner)[1]
        room = self.longest - len(prompt)  # at least one token, since the prompt has its own answer
        mask = self.examples[partner].loss_mask[-len(answer) :][:room]
        answer = answer[:room]
        return Example(
            np.concatenate((prompt, answer)),
            np.concatenate((np.zeros(len(prompt), dtype=np.bool_), mask)),
            self.examples[number].where,
        )
