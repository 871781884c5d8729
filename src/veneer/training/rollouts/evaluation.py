"""The evaluation of a run that samples its answers: greedy answers to the held-out prompts, and their rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from veneer.data.encoded.chat import Example
from veneer.data.forms.prompts import PromptRow
from veneer.errors import DataError, listing
from veneer.events import Level, Note
from veneer.generation.sampling import Sampling
from veneer.training.objectives.base import Means
from veneer.training.rollouts.answers import SamplingStopped
from veneer.training.rollouts.sampler import Sampler

DOING = "answering the evaluation prompts"


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardEvaluation:
    """Measures the mean reward of greedy answers. Its loss is the negative of that, so that less is better."""

    sampler: Sampler
    prompts: Sequence[PromptRow]
    examples: Sequence[Example]
    """The tokens of the prompts."""
    longest: int
    """The most tokens of an answer."""

    def __call__(self) -> Means | None:
        """The loss and metrics of the current model; None if a signal ended the evaluation.

        Raises:
            DataError: a reward failed and its failure ends the run, or no answer has a reward.
            OutOfMemory: there is not enough memory for the answers.
        """
        greedy = Sampling(max_new_tokens=self.longest)
        try:
            sampled = self.sampler.answers(self.prompts, self.examples, 1, greedy, DOING)
        except SamplingStopped:
            return None
        answers, judged = sampled.answers, sampled.judged
        failed = [f"{failure.reward}: {failure.text}" for failure in judged.failures]
        if bool(np.isnan(judged.totals).all()):
            why = f":\n{listing(failed)}" if failed else ""
            raise DataError(f"no answer to an evaluation prompt got a reward{why}")
        if failed:
            more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
            message = f"evaluation: answers left out because a reward failed: {failed[0]}{more}"
            self.sampler.emit(Note(message=message, level=Level.WARNING))
        metrics = {f"rewards/{name}/mean": values for name, values in zip(judged.names, judged.values.T, strict=True)}
        metrics |= {
            "reward": judged.totals,
            "completions/mean_length": np.array([float(len(answer.tokens)) for answer in answers]),
            "completions/clipped_ratio": np.array([float(answer.truncated) for answer in answers]),
        }
        means = {name: float(np.nanmean(values)) for name, values in metrics.items() if not np.isnan(values).all()}
        # A difference, since the negative of a reward of 0 would be shown as -0.0000.
        return Means(dict.fromkeys(means, 1.0), 0.0 - means["reward"], means)
