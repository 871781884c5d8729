"""The steps of a run that samples its answers: the prompts of each step, and how large it may become.

Answers exist only when a step is made. Until then they are assumed to be as long as they may be, so that a plan holds,
and what does not fit fails before the first step.

The answers to a prompt are packed in pieces: as many of them as a micro-batch has room for, or all if it is large
enough. Each piece contains the prompt once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from veneer.config import TrainSection
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.batches import MicroBatch
from veneer.data.micro_batches.packing import pack
from veneer.data.rows import Rows
from veneer.padding import pad_to_multiple
from veneer.planning.batch_shape import BatchShape
from veneer.training.steps import SCANNED_STEPS, PackedSteps, Packing
from veneer.training.supposed_steps import SupposedRows

SUPPOSED_TOKENS = 1000
"""The number of different tokens in supposed prompts."""
SHAPES = 64
"""The number of different sizes, in tokens, that micro-batches of sampled answers are assumed to have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """The sampling of a step."""

    num_generations: int
    """The number of answers to each prompt."""
    longest: int
    """The most tokens of an answer, including the one that ends it."""
    iterations: int
    """The number of steps that the answers serve."""

    def pieces(self) -> list[int]:
        """The possible numbers of answers in a piece of a group, beginning with the whole group."""
        return [size for size in range(self.num_generations, 0, -1) if self.num_generations % size == 0]

    def piece(self, prompt: int, answer: int, most: int) -> int:
        """The number of answers in a piece, for a given size of micro-batches.

        Args:
            prompt: the number of tokens of the longest prompt.
            answer: the number of tokens of the longest answer.
            most: the most tokens of a micro-batch.
        """
        return next((size for size in self.pieces() if prompt + size * answer <= most), 1)


class PromptSteps:
    """The steps of a run over prompts, whose answers are only supposed; `veneer.training.rollouts.steps` samples them.

    Args:
        rows: the prompts.
        train: the size of a step in prompts, and the number of steps.
        packing: how micro-batches are packed.
        sampled: the sampling of a step.
        piece: the fewest answers of a group that are planned in a micro-batch.
    """

    def __init__(self, rows: Rows, train: TrainSection, packing: Packing, sampled: Sampled, piece: int):
        self.rows, self.packing, self.sampled = rows, packing, sampled
        self._order = PackedSteps(rows, train, packing)
        self._lengths = rows.lengths
        self._piece = piece
        self.total = train.steps or self._order.total * sampled.iterations
        first = range(1, min(self.total, SCANNED_STEPS) + 1)
        self._most_prompts = max(len(self._order.numbers(step)) for step in first)

    def cut_at(self, micro_batch_tokens: int) -> None:
        """See `PackedSteps.cut_at`."""
        self._order.cut_at(micro_batch_tokens)

    def most_tokens(self, most: int | None = None) -> int:
        """See `PackedSteps.most_tokens`."""
        return self._order.most_tokens(most)

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """Only the prompts of the 1-based step, packed: they are measured before anything is sampled."""
        return self._order.micro_batches(step)

    @property
    def longest(self) -> int:
        """The number of tokens of the longest prompt with the answers of a piece."""
        return self.longest_prompt + self._piece * self.sampled.longest

    @property
    def longest_prompt(self) -> int:
        """The number of tokens of the longest prompt."""
        return int(self._lengths.max())

    def generation(self, step: int) -> int:
        """The number of the sampling that the answers of the 1-based step come from; the first is 1."""
        return (step - 1) // self.sampled.iterations + 1

    def prompts(self, generation: int) -> list[int]:
        """The places of the prompts of a sampling."""
        return self._order.numbers(generation)

    def piece(self, prompt: int, answer: int, most: int) -> int:
        """`Sampled.piece`; a single answer if beginnings are not shared."""
        return self.sampled.piece(prompt, answer, most) if self.packing.share else 1

    def epoch(self, step: int) -> float:
        """The number of passes over the prompts after the 1-based step."""
        return self._order.epoch(self.generation(step))

    def largest(self, most: int | None = None) -> MicroBatch:
        """A micro-batch of the largest possible size. Its documents have no numbers, since they are only supposed."""
        tokens = self.most_tokens(most)
        prompt = max(self.rows.train, key=lambda example: len(example.tokens))
        size = self.piece(len(prompt.tokens), self.sampled.longest, tokens)
        pieces = max(1, min(tokens // (len(prompt.tokens) + size * self.sampled.longest), self._step_pieces(size)))
        answers = [supposed(prompt, number // size, number, self.sampled.longest) for number in range(pieces * size)]
        (batch,) = pack(
            answers, sum(len(answer.tokens) for answer in answers), share=self.packing.share,
            pad_to_multiple_of=self.packing.pad_to_multiple_of, together=size,
        )  # fmt: skip
        return replace(batch, numbers=())

    def batch_shape(self, micro_batch_tokens: int) -> BatchShape:
        """What the steps consist of when a micro-batch has at most so many tokens, and every answer is as long as it
        may be."""
        longest, prompt = self.sampled.longest, self.longest_prompt
        size = self.piece(prompt, longest, micro_batch_tokens)
        most = max(micro_batch_tokens, prompt + longest)
        shortest = int(self._lengths.min()) + size * longest
        pieces = max(1, min(most // shortest, self._step_pieces(size)))
        laid = min(most, self._step_pieces(size) * (prompt + size * longest))
        answers = self._most_prompts * self.sampled.num_generations
        lengths = self._lengths.astype(np.float64)
        return BatchShape(
            tokens=pad_to_multiple(laid, self.packing.pad_to_multiple_of),
            documents=pieces * size,
            longest=prompt + longest,
            supervised=pieces * size * longest,
            shared=prompt if size > 1 else 0,
            blocks=pieces if size > 1 else 1,
            together=size,
            evaluated=0,
            shapes=SHAPES,
            micro_batches=max(1.0, answers / (pieces * size)),
            step_tokens=float(answers * (lengths.mean() + longest)),
            step_supervised=float(answers * longest),
            step_squares=float(answers * ((lengths + longest) ** 2).mean()),
            sampled=answers,
        )

    def _step_pieces(self, size: int) -> int:
        """The most pieces of so many answers in a step."""
        return self._most_prompts * (self.sampled.num_generations // size)


def supposed_prompts(rows: SupposedRows) -> Rows:
    """Supposed prompts, for a plan without data: one of the maximum length, the others of the mean length."""
    longest, mean = (
        Example(np.arange(length, dtype=np.int32) % SUPPOSED_TOKENS, np.zeros(length, dtype=np.bool_), "supposed")
        for length in (rows.longest, rows.tokens)
    )
    return Rows([longest, *[mean] * (rows.rows - 1)], [])


def supposed(prompt: Example, piece: int, number: int, length: int) -> Example:
    """A prompt with a supposed answer. Prompts of different pieces and answers of different numbers begin differently,
    so that no more is shared than answers to one prompt share."""
    tokens = np.arange(len(prompt.tokens) + length, dtype=np.int32) % (int(prompt.tokens.max()) + 1)
    tokens[0], tokens[len(prompt.tokens)] = piece, number
    tokens %= int(prompt.tokens.max()) + 1
    return answered(replace(prompt, tokens=tokens[: len(prompt.tokens)]), tokens[len(prompt.tokens) :])


def answered(prompt: Example, answer: Sequence[int] | NDArray[np.integer]) -> Example:
    """A prompt with an answer, for training."""
    tokens = np.concatenate((prompt.tokens, np.asarray(answer, dtype=np.int32)))
    return Example(tokens, np.arange(len(tokens)) >= len(prompt.tokens), prompt.where)
