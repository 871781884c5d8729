"""An objective over sampled answers, which computes what it compares the policy with before the first backward pass.

The log-probabilities of the sampling policy are needed if answers serve several steps, or if the divergence from the
reference is subtracted from rewards. Those of the reference are needed if there is one. Each is a forward pass over the
step's own micro-batches. The reference is the base with the adapter off, or the weights at the start of the run, which
replace the policy's during the pass: a copy of the trained weights, and no second model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from veneer.config import GrpoSection
from veneer.data.micro_batches.batches import MicroBatch
from veneer.formulas import KlPlace, ReferencePolicy
from veneer.machine.out_of_memory import out_of_memory_while
from veneer.model.language import LanguageModel
from veneer.model.mode import evaluation_mode
from veneer.processes.group import Group
from veneer.processes.ragged import everybodys
from veneer.training.objectives.advantages import advantages
from veneer.training.objectives.base import Sums
from veneer.training.objectives.documents import token_log_probabilities
from veneer.training.objectives.grpo import Grpo
from veneer.training.over_model import OverModel, hidden_states
from veneer.training.rollouts.table import Floats
from veneer.training.trainable import AdapterTraining, Trainable

AsReference = Callable[[], AbstractContextManager[None]]
"""Returns a block in which the model is the reference."""


@dataclass(frozen=True, slots=True)
class SampledObjective:
    """The objective of sampled answers over one model (`StepObjective`)."""

    model: LanguageModel
    objective: Grpo
    as_reference: AsReference | None
    """Replaces the policy by the reference within a block; None if there is no comparison with a reference."""
    group: Group
    """The processes of the run, each of which computes a part of these log-probabilities."""

    def prepared(self, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """The micro-batches as they are. The values that the step's answers are compared with are put into the table,
        unless they are already there from an earlier step, or from a cut of this step that did not fit into the memory.

        Raises:
            OutOfMemory: there is not enough memory for the passes.
        """
        settings, table = self.objective.settings, self.objective.table
        in_reward = settings.beta > 0 and settings.kl_in is KlPlace.REWARD
        with out_of_memory_while("computing log-probabilities of sampled answers"):
            if table.old is None and (settings.num_iterations > 1 or in_reward):
                table.old = self._log_probabilities(batches)
            if table.reference is None and self.as_reference is not None:
                with self.as_reference():
                    table.reference = self._log_probabilities(batches)
                if in_reward and table.old is not None:
                    table.advantages = self._less_divergence(table.old, table.reference, table.rewards, settings)
        return batches

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """See `Objective.weights`."""
        return self._over.weights(batches)

    def sums(self, batch: MicroBatch) -> Sums:
        """The sums over one micro-batch."""
        return self._over.sums(batch)

    @property
    def _over(self) -> OverModel:
        return OverModel(self.model, self.objective)

    @torch.no_grad()
    def _log_probabilities(self, batches: Sequence[MicroBatch]) -> list[Floats]:
        """The log-probabilities of each answer's tokens, by the answer's place. Processes share the micro-batches."""
        ranks, shaping = self.group.ranks, self.objective.scaled(self.model.spec.scores)
        own = [np.zeros(0)]
        with evaluation_mode(self.model):
            for batch in batches[ranks.rank :: ranks.world]:
                tokens = token_log_probabilities(hidden_states(self.model, batch), self.model.lm_head, shaping, batch)
                own.append(tokens.double().cpu().numpy())
        by_answer: dict[int, Floats] = {}
        for rank, values in enumerate(everybodys(self.group, np.concatenate(own))):
            theirs = batches[rank :: ranks.world]
            borders = np.cumsum([count for batch in theirs for count in batch.counts], dtype=np.int64)
            numbers = [number for batch in theirs for number in batch.numbers]
            # A process without micro-batches has one empty piece, and no number.
            by_answer |= dict(zip(numbers, np.split(values, borders[:-1]), strict=False))
        return [by_answer[number] for number in range(len(by_answer))]

    @staticmethod
    def _less_divergence(old: list[Floats], reference: list[Floats], rewards: Floats, settings: GrpoSection) -> Floats:
        """The advantages of R − β Σ_t (log π_old − log π_ref)."""
        divergence = np.array([float((policy - base).sum()) for policy, base in zip(old, reference, strict=True)])
        less = rewards - settings.beta * divergence
        return advantages(less, settings.num_generations, settings.baseline, settings.scale_rewards).values


def as_reference_of(settings: GrpoSection, trainable: Trainable, started: bool) -> AsReference | None:
    """The function that makes the model the reference.

    Args:
        settings: the settings of the run.
        trainable: the part that is trained, as the run starts.
        started: whether the run starts from anything but the base alone.
    """
    if not settings.beta:
        return None
    if isinstance(trainable, AdapterTraining) and (settings.reference is ReferencePolicy.BASE or not started):
        return trainable.adapter.disabled
    start = {name: tensor.detach().clone() for name, tensor in trainable.named().items()}
    return lambda: laid_in(trainable, start)


@contextmanager
def laid_in(trainable: Trainable, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the trained parameters hold these weights within the block, and their own after it."""
    kept = {name: tensor.detach().clone() for name, tensor in trainable.named().items()}
    try:
        _lay(trainable, weights)
        yield
    finally:
        _lay(trainable, kept)


@torch.no_grad()
def _lay(trainable: Trainable, weights: Mapping[str, Tensor]) -> None:
    """Give the trained parameters these weights, also if they are kept rounded to 16 bits."""
    for name, tensor in trainable.named().items():
        tensor.copy_(weights[name])
    trainable.changed()
