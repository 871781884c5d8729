"""The steps of a run that samples its answers. Each step samples, judges and packs them when it is made.

A step consists of its prompts, a number of answers to each from the current policy, their rewards, their advantages
over the whole step, and then micro-batches like those of any other objective. With `num_iterations` above 1 the answers
serve as many steps; checkpoints then keep them, since a resumed run cannot sample them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor

from veneer.config import GrpoSection
from veneer.data.encoded.chat import Example
from veneer.data.forms.prompts import PromptRow
from veneer.data.micro_batches.batches import MicroBatch, deal
from veneer.data.micro_batches.packing import pack
from veneer.errors import CheckpointError, DataError
from veneer.events import AnswersJudged, Subscriber
from veneer.io.files import write_tensors
from veneer.processes.ragged import from_first
from veneer.rewards.judge import Judged
from veneer.training.objectives.advantages import advantages
from veneer.training.rollouts.answers import SampledAnswer, SamplingStopped, sampling_of
from veneer.training.rollouts.planned_steps import PromptSteps, answered
from veneer.training.rollouts.sampler import Sampler
from veneer.training.rollouts.table import Floats, RolloutTable
from veneer.training.step_source import SourceStopped

FILE = "rollout.safetensors"
"""The file in a checkpoint with the answers that later steps still use."""
SHOWN = 2
"""The number of answers that a step's event shows: the one with the highest reward, and the one with the lowest."""


@dataclass(kw_only=True, slots=True)
class SampledSteps:
    """Samples the answers of a run's steps (`veneer.training.step_source.StepSource`).

    It also puts the answers into `table`, where the objective reads them.
    """

    steps: PromptSteps
    prompts: Sequence[PromptRow]
    """The training rows."""
    settings: GrpoSection
    seed: int
    lanes_in_step: int
    sampler: Sampler
    table: RolloutTable
    emit: Subscriber
    """Receives what was sampled."""
    _generation: int = field(init=False, default=0)
    """The sampling of the current answers; 0 for none."""
    _examples: list[Example] = field(init=False, default_factory=list)

    def lanes(self, step: int, most: int | None = None) -> list[list[MicroBatch]]:
        """See `StepSource.lanes`.

        Raises:
            SourceStopped: a signal came.
            DataError: a reward failed and its failure ends the run.
            OutOfMemory: there is not enough memory for sampling.
        """
        generation = self.steps.generation(step)
        if generation != self._generation:
            self._sample(generation, step)
        num_generations = self.settings.num_generations
        prompts = range(len(self._examples) // num_generations)
        sizes = [sum(len(example.tokens) for example in self._group(place)) for place in prompts]
        return [self._packed(places, most) for places in deal(sizes, self.lanes_in_step)]

    def epoch(self, step: int) -> float:
        """See `StepSource.epoch`."""
        return self.steps.epoch(step)

    def save(self, folder: Path, step: int) -> None:
        """Write the answers that are still used after the 1-based step into a checkpoint's folder."""
        if self._served(step):
            write_tensors(folder / FILE, self._tensors(), {"format": "pt"})

    def share(self, step: int) -> None:
        """Send the answers that are still used after the 1-based step from rank 0, which has restored them, to every
        process."""
        group = self.sampler.group
        if group.ranks.many and step > 0 and self.steps.generation(step) == self.steps.generation(step + 1):
            stored = from_first(group, save(self._tensors()) if group.ranks.first else b"")
            self._take(load(stored), self.steps.generation(step + 1))

    def _served(self, step: int) -> bool:
        """Whether the current answers serve the 1-based step and the next."""
        return self.steps.generation(step) == self.steps.generation(step + 1) == self._generation

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that is known of the current answers, for `_take`."""
        table = self.table
        assert table.old is not None, "answers that serve several steps have the log-probabilities of the first"
        tensors = {
            "lengths": [len(example.tokens) for example in self._examples],
            "answers": [example.supervised for example in self._examples],
            "tokens": np.concatenate([example.tokens for example in self._examples]),
            "advantages": table.advantages, "counted": table.counted, "rewards": table.rewards,
            "old": np.concatenate(table.old),
            **({} if table.reference is None else {"reference": np.concatenate(table.reference)}),
            **{f"metrics/{name}": values for name, values in table.metrics.items()},
        }  # fmt: skip
        return {name: torch.from_numpy(np.array(values)) for name, values in tensors.items()}

    def restore(self, folder: Path, step: int) -> None:
        """Load the answers that `save` wrote after the 1-based step.

        Raises:
            CheckpointError: the file is missing, or cannot be read.
        """
        generation = self.steps.generation(step + 1)
        if step == 0 or self.steps.generation(step) != generation:
            return
        try:
            self._take(load_file(folder / FILE), generation)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(f"{folder / FILE} does not fit this run: {error}") from error

    def _take(self, tensors: Mapping[str, Tensor], generation: int) -> None:
        """Use the answers of a sampling in the form of `_tensors`."""
        stored = {name: tensor.numpy() for name, tensor in tensors.items()}
        ends, answers = np.cumsum(stored["lengths"]), stored["answers"]
        places = [row for row in self.steps.prompts(generation) for _ in range(self.settings.num_generations)]
        self._examples = [
            answered(self.steps.rows.train[row], tokens[len(tokens) - count :])
            for row, tokens, count in zip(places, np.split(stored["tokens"], ends[:-1]), answers, strict=True)
        ]
        borders = np.cumsum(answers)[:-1]
        self.table.advantages, self.table.counted = stored["advantages"], stored["counted"]
        self.table.rewards, self.table.old = stored["rewards"], list(np.split(stored["old"], borders))
        known = stored.get("reference")
        self.table.reference = None if known is None else list(np.split(known, borders))
        metrics = {name: values for name, values in stored.items() if name.startswith("metrics/")}
        self.table.metrics = {name.removeprefix("metrics/"): values for name, values in metrics.items()}
        self._generation = generation

    def _sample(self, generation: int, step: int) -> None:
        """Sample and judge the answers of a step, and put them into the table."""
        rows, num_generations = self.steps.prompts(generation), self.settings.num_generations
        examples = [self.steps.rows.train[row] for row in rows]
        prompts = [self.prompts[row] for row in rows]
        sampling, doing = sampling_of(self.settings, self.seed, generation), f"sampling the answers of step {step}"
        try:
            sampled = self.sampler.answers(prompts, examples, num_generations, sampling, doing)
        except SamplingStopped as error:
            raise SourceStopped from error
        except DataError as error:
            raise DataError(f"step {step}: {error}") from error
        answers, judged = sampled.answers, sampled.judged
        totals = without_groups(judged, num_generations)
        own = [prompt for prompt in examples for _ in range(num_generations)]
        self._examples = [answered(prompt, answer.tokens) for prompt, answer in zip(own, answers, strict=True)]
        self._generation = generation
        fill(self.table, self.settings, answers, judged, totals)
        self._tell(step, prompts, answers, judged, totals)

    def _group(self, place: int) -> list[Example]:
        num_generations = self.settings.num_generations
        return self._examples[place * num_generations : (place + 1) * num_generations]

    def _packed(self, places: Sequence[int], most: int | None) -> list[MicroBatch]:
        """The micro-batches of some prompts' answers, in pieces of groups that share their prompt."""
        num_generations = self.settings.num_generations
        numbers = [place * num_generations + number for place in places for number in range(num_generations)]
        if not numbers:
            return []
        examples = [self._examples[number] for number in numbers]
        answer = max(example.supervised for example in examples)
        prompt = max(len(example.tokens) - example.supervised for example in examples)
        share, tokens = self.steps.packing.share, self.steps.most_tokens(most)
        size = self.steps.piece(prompt, answer, tokens)
        packed = pack(
            examples,
            tokens,
            share=share,
            pad_to_multiple_of=self.steps.packing.pad_to_multiple_of,
            together=size,
            numbers=numbers,
            sizes=[laid(examples[start : start + size]) for start in range(0, len(examples), size)],
        )
        return list(packed)

    def _tell(
        self, step: int, prompts: Sequence[PromptRow], answers: Sequence[SampledAnswer], judged: Judged, totals: Floats
    ) -> None:
        known = np.flatnonzero(~np.isnan(totals))
        ordered = known[np.argsort(-totals[known], kind="stable")].tolist()
        shown = list(dict.fromkeys([*ordered[:1], *ordered[-1:]]))[:SHOWN]
        num_generations = self.settings.num_generations
        self.emit(
            AnswersJudged(
                step=step,
                answers=len(answers),
                tokens=sum(len(answer.tokens) for answer in answers),
                failed=tuple(f"{failure.reward}: {failure.text}" for failure in judged.failures),
                prompts=tuple(prompts[place // num_generations].record.messages[-1]["content"] for place in shown),
                shown=tuple(answers[place].text for place in shown),
                rewards=tuple(float(totals[place]) for place in shown),
            )
        )


def laid(answers: Sequence[Example]) -> int:
    """The number of packed tokens of the answers to one prompt, which is packed once."""
    return len(answers[0].tokens) + sum(answer.supervised for answer in answers[1:])


def without_groups(judged: Judged, num_generations: int) -> Floats:
    """The rewards of answers; NaN for those whose whole group is left out because a reward failed."""
    totals = judged.totals.copy()
    for failure in judged.failures:
        if failure.whole_group:
            first = failure.answer // num_generations * num_generations
            totals[first : first + num_generations] = np.nan
    return totals


def fill(
    table: RolloutTable,
    settings: GrpoSection,
    answers: Sequence[SampledAnswer],
    judged: Judged,
    totals: Floats,
) -> None:
    """Put what is known of a step's answers into the table, over the whole step.

    Args:
        table: the table, changed in place.
        settings: the settings of the objective.
        answers: the answers of the step.
        judged: the result of each reward.
        totals: the answers' rewards; NaN for those that are left out.
    """
    truncated = np.array([answer.truncated for answer in answers])
    advantage = advantages(totals, settings.num_generations, settings.baseline, settings.scale_rewards)
    table.rewards, table.advantages = totals, advantage.values
    table.counted = ~np.isnan(totals) & ~(truncated & settings.mask_truncated_completions)
    table.sampled = [answer.logprobs for answer in answers] if settings.temperature == 1.0 else None
    table.old = table.reference = None
    lengths = np.array([len(answer.tokens) for answer in answers], dtype=np.float64)
    metrics = {
        "reward": totals,
        "reward_std": advantage.group_std,
        "frac_reward_zero_std": np.where(np.isnan(advantage.group_std), np.nan, advantage.group_std == 0.0),
        "completions/mean_length": lengths,
        "completions/min_length": np.full(len(answers), lengths.min()),
        "completions/max_length": np.full(len(answers), lengths.max()),
        "completions/mean_terminated_length": np.where(truncated, np.nan, lengths),
        "completions/clipped_ratio": truncated.astype(np.float64),
    }
    for name, values in zip(judged.names, judged.values.T, strict=True):
        known = values[~np.isnan(values)]
        metrics[f"rewards/{name}/mean"] = values
        if len(known) > 1:
            metrics[f"rewards/{name}/std"] = np.full(len(answers), known.std(ddof=1))
    # A value that no answer has is not 0: it is left out of the step's metrics.
    table.metrics = {name: values for name, values in metrics.items() if not bool(np.isnan(values).all())}
