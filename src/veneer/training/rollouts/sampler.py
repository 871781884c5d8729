"""Samples answers and has them judged, distributed over the processes of a run.

Answers come from the engine that serves models, with the live adapter. They depend only on the weights, the prompts,
the run's seed and the number of the sampling, so that a resumed run samples the same answers as an uninterrupted one.

Every process samples the answers to its own prompts, and then gets those of all processes. Each answer has its own
random stream, so it does not matter which process samples it. Only rank 0 judges, so that a reward is computed once for
each answer, however many processes there are; the others get the results.

For slow work, processes wait at their meeting place, where no time-out applies to a live process; only then collectives
exchange numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from veneer.data.encoded.chat import Example
from veneer.data.forms.prompts import PromptRow
from veneer.events import Level, Note, Stage, Subscriber
from veneer.generation.batch import whole_answers
from veneer.generation.request import STREAMS_PER_SEED, GenerationRequest
from veneer.generation.sampling import Sampling
from veneer.io.tokenizer import Tokenizer
from veneer.machine.out_of_memory import out_of_memory_while
from veneer.model.language import LanguageModel
from veneer.processes.group import Group
from veneer.processes.ragged import everybodys
from veneer.rewards.base import RewardsStopped
from veneer.rewards.judge import Failure, Judge, Judged
from veneer.text.strict_json import to_text
from veneer.training.rollouts.answers import (
    SampledAnswer,
    SamplingStopped,
    as_numbers,
    from_numbers,
    sampled_answer,
    to_judge,
)

READY, STOPPED = "ready", "stopped"


@dataclass(frozen=True, slots=True)
class JudgedAnswers:
    """Answers, with those to one prompt next to each other, and their rewards."""

    answers: Sequence[SampledAnswer]
    judged: Judged


@dataclass(kw_only=True, slots=True)
class Sampler:
    """Samples and judges the answers of a run."""

    model: LanguageModel
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    """The tokens that end an answer."""
    judge: Judge
    """The rewards; only those of rank 0 are used."""
    group: Group
    """The processes of the run."""
    emit: Subscriber
    """Receives the progress of the sampling."""
    stop: Callable[[], bool]
    """Called while answers are sampled and judged; true ends both."""
    _asked: int = 0
    """The number of samplings so far, which is the same on all processes."""
    _reported: set[str] = field(default_factory=set)
    """The rewards that were reported to fail on several answers together; "" if it was reported that answers have no
    reward."""

    def answers(
        self,
        prompts: Sequence[PromptRow],
        examples: Sequence[Example],
        num_generations: int,
        sampling: Sampling,
        doing: str,
    ) -> JudgedAnswers:
        """Answers to prompts with their rewards, on every process.

        Args:
            prompts: the rows with the prompts.
            examples: the tokens of the prompts.
            num_generations: the number of answers to each prompt.
            sampling: how tokens are drawn.
            doing: a description for messages, such as "sampling the answers of step 3".

        Raises:
            SamplingStopped: a signal came to a process.
            DataError: a reward failed and its failure ends the run.
            OutOfMemory: there is not enough memory.
            RankLost: another process is gone.
        """
        self._asked += 1
        with out_of_memory_while(doing):
            own = self._own(examples, num_generations, sampling, doing)
            answers = self._everybodys(own, len(examples), num_generations)
        return JudgedAnswers(answers, self._judged(prompts, answers, num_generations))

    def _own(
        self, examples: Sequence[Example], num_generations: int, sampling: Sampling, doing: str
    ) -> list[SampledAnswer] | None:
        """The answers to this process's prompts; None if a signal came.

        Each draws from its own random stream, which the place of its prompt among all prompts determines.
        """
        requests = [
            GenerationRequest(
                prompt=tuple(examples[place].tokens.tolist()),
                sampling=sampling,
                stream=(place * num_generations + number) % STREAMS_PER_SEED,
                stop_ids=self.stop_ids,
                logprobs=0,
            )
            for place in self._places(self.group.ranks.rank, len(examples))
            for number in range(num_generations)
        ]
        if not requests:
            return []
        try:
            with Stage(self.emit, doing, total=len(requests), unit="answers") as stage:
                results = whole_answers(self.model, requests, on_progress=stage.advance_side_by_side, stop=self.stop)
                return [sampled_answer(result, self.tokenizer) for result in results]
        except SamplingStopped:
            return None

    def _places(self, rank: int, prompts: int) -> range:
        """The prompts whose answers a process samples."""
        return range(rank, prompts, self.group.ranks.world)

    def _everybodys(self, own: list[SampledAnswer] | None, prompts: int, num_generations: int) -> list[SampledAnswer]:
        """The answers to all prompts, in their order."""
        ranks = self.group.ranks
        self.group.publish(f"sampled/{self._asked}/{ranks.rank}", STOPPED if own is None else READY)
        others = (rank for rank in range(ranks.world) if rank != ranks.rank)
        if STOPPED in [self.group.awaited(f"sampled/{self._asked}/{rank}") for rank in others] or own is None:
            raise SamplingStopped
        if not ranks.many:
            return own
        by_prompt: dict[int, list[SampledAnswer]] = {}
        for rank, numbers in enumerate(everybodys(self.group, as_numbers(own))):
            places = self._places(rank, prompts)
            answers = (
                own if rank == ranks.rank else from_numbers(numbers, len(places) * num_generations, self.tokenizer)
            )
            for number, place in enumerate(places):
                by_prompt[place] = answers[number * num_generations : (number + 1) * num_generations]
        return [answer for place in range(prompts) for answer in by_prompt[place]]

    def _judged(self, prompts: Sequence[PromptRow], answers: Sequence[SampledAnswer], num_generations: int) -> Judged:
        """The results of the rewards of rank 0."""
        key = f"judged/{self._asked}"
        if not self.group.ranks.first:
            return self._heard(self.group.awaited(key), len(answers))
        try:
            judged = self.judge.judged(to_judge(prompts, answers, num_generations))
        except RewardsStopped:
            self.group.publish(key, STOPPED)
            raise SamplingStopped from None
        self._say(judged)
        self.group.publish(key, to_text([judged.names, [asdict(failure) for failure in judged.failures]]))
        self.group.broadcast(torch.from_numpy(judged.values))
        self.group.broadcast(torch.from_numpy(judged.totals))
        return judged

    def _say(self, judged: Judged) -> None:
        """Report once about each reward that fails on several answers together and therefore judges them one by one:
        this takes far longer, and all of its results may be wrong. Also report once if no answer of a step has a
        reward."""
        messages = {
            text.partition(":")[0]: f"reward {text}; it now judges fewer answers at a time, which takes longer"
            for text in judged.retried
        }
        if len(judged.totals) and np.isnan(judged.totals).all():
            messages[""] = f"none of {len(judged.totals)} answers has a reward, so a step learns nothing from them"
        for name, message in messages.items():
            if name not in self._reported:
                self._reported.add(name)
                self.emit(Note(message=message, level=Level.WARNING))

    def _heard(self, message: str, answers: int) -> Judged:
        """The results that rank 0 sent about its rewards."""
        if message == STOPPED:
            raise SamplingStopped
        names, failures = json.loads(message)
        values, totals = np.zeros((answers, len(names))), np.zeros(answers)
        self.group.broadcast(torch.from_numpy(values))
        self.group.broadcast(torch.from_numpy(totals))
        return Judged(tuple(names), values, totals, tuple(Failure(**failure) for failure in failures))
