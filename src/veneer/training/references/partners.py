"""Partners: which other row's answer stands behind a row's prompt, from which KTO's reference point is estimated.

The partner of a row follows from the rows of its step and the seed.

A long answer of another row may make a text that is longer than any row, for which neither the memory is planned nor
the model's context need suffice. It is cut, so that no such text is longer than the longest row of the run. TRL does
not cut it: K deviates from TRL's in steps that have such a text, and only there.
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
"""Another stream of random numbers than those of the epochs, and than that of held-out rows."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Prompts with partners' answers, each text once."""

    examples: list[Example]
    uses: list[int]
    """For each row with a partner which of the examples it is."""


@lru_cache(maxsize=1)
def _ranks(rows: int, seed: int) -> NDArray[np.int64]:
    """The place of each row of a run in the order by which partners are found, `[rows]`."""
    return np.argsort(order(rows, seed=seed, epoch=STREAM))


def _kinds(texts: Sequence[NDArray[np.int32]]) -> list[int]:
    """A number for each of some texts, which equal ones share."""
    known: dict[bytes, int] = {}
    return [known.setdefault(text.tobytes(), len(known)) for text in texts]


def _runs(kinds: Sequence[int]) -> list[int]:
    """For each place of a ring, how many places on one of another kind stands; all of them where none does."""
    count = len(kinds)
    found = [count] * count
    length = count
    for place in range(2 * count - 1, -1, -1):  # twice around: the run at the end may go on at the beginning
        own, following = kinds[place % count], kinds[(place + 1) % count]
        length = 1 if own != following else min(length + 1, count)
        found[place % count] = length
    return found


@dataclass(frozen=True, slots=True)
class Partners:
    """Which other answer stands behind the prompt of a row, to estimate how far the policy has gone.

    Args:
        examples: of the run, those that are trained first.
        seed: of the run.
        longest: tokens of the longest example, which no prompt with another answer exceeds.
    """

    examples: Sequence[Example]
    seed: int
    longest: int

    @classmethod
    def among(cls, examples: Sequence[Example], seed: int) -> Partners:
        """The partners among the examples of a run."""
        return cls(examples, seed, max((len(example.tokens) for example in examples), default=0))

    def of(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """The rows of a step that have a partner, each with it, as places of examples.

        In an order that the seed gives, every row takes the answer of the next one whose prompt and answer are others.
        They depend on which rows the step has, and not on how it is cut.
        """
        rank = _ranks(len(self.examples), self.seed)
        ring = sorted(numbers, key=lambda number: int(rank[number]))
        parted = [self._parted(number) for number in ring]
        prompts, answers = _kinds([prompt for prompt, _ in parted]), _kinds([answer for _, answer in parted])
        prompt_runs, answer_runs = _runs(prompts), _runs(answers)
        found = []
        for place, number in enumerate(ring):
            step = 1
            while step < len(ring):
                other = (place + step) % len(ring)
                # Rows with one prompt, or one answer, may be all there are: those in a row are passed over at once.
                if prompts[other] == prompts[place]:
                    step += prompt_runs[other]
                elif answers[other] == answers[place]:
                    step += answer_runs[other]
                else:
                    found.append((number, ring[other]))
                    break
        return found

    def _parted(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        example = self.examples[number]
        start = prompt_length(example)
        return example.tokens[:start], example.tokens[start:]

    def texts(self, pairs: Sequence[tuple[int, int]]) -> Texts:
        """What is computed for some rows and their partners, which may be one text for several."""
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
        """A row's prompt with its partner's answer, as much of it as makes no text longer than the longest row."""
        prompt, answer = self._parted(number)[0], self._parted(partner)[1]
        room = self.longest - len(prompt)  # a token at least, since the prompt has an answer of its own
        mask = self.examples[partner].loss_mask[-len(answer) :][:room]
        answer = answer[:room]
        return Example(
            np.concatenate((prompt, answer)),
            np.concatenate((np.zeros(len(prompt), dtype=np.bool_), mask)),
            self.examples[number].where,
        )
