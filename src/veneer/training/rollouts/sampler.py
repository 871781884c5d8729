"""Samples answers and has them judged, divided among the processes of a run.

Answers come from the engine that serves models, with the live adapter. What is sampled depends on the weights, the
prompts, the run's seed and the number of the sampling, and on nothing else: a resumed run samples what the run samples
that was never interrupted.

Every process samples the answers to its own prompts, and all get all of them: each answer draws from a stream of its
own, so that which process samples it changes nothing. Rank 0 alone judges, so that a reward is asked once about each
answer, whatever the number of processes, and the others get what it says.

What takes long is waited for at the place where the processes meet, which knows no time-out for those who are alive;
only then numbers are exchanged by collectives.
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
from veneer.generation.request import STREAMS, GenerationRequest
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
    """Answers, those to one prompt side by side, and what rewards say of them."""

    answers: Sequence[SampledAnswer]
    judged: Judged


@dataclass(kw_only=True, slots=True)
class Sampler:
    """What samples and judges in a run."""

    model: LanguageModel
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    """Tokens that end an answer."""
    judge: Judge
    """The rewards; those of rank 0 are asked."""
    group: Group
    """The processes of the run."""
    emit: Subscriber
    """Told how far the sampling is."""
    stop: Callable[[], bool]
    """Asked while answers are sampled and judged; true ends both."""
    _asked: int = 0
    """How often it was asked, which all processes count alike."""
    _told: set[str] = field(default_factory=set)
    """The rewards of which it was told that they fail on several answers together; "" where it was told that answers
    have no reward."""

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
            prompts: the rows that ask.
            examples: their tokens.
            num_generations: the number of answers to each.
            sampling: how tokens are drawn.
            doing: what this is called: "sampling the answers of step 3".

        Raises:
            SamplingStopped: a signal came to a process.
            DataError: a reward failed that is to end the run.
            OutOfMemory: there is no memory for it.
            RankLost: another process is gone.
        """
        self._asked += 1
        with out_of_memory_while(doing):
            own = self._own(examples, num_generations, sampling, doing)
            found = self._everybodys(own, len(examples), num_generations)
        return JudgedAnswers(found, self._judged(prompts, found, num_generations))

    def _own(
        self, examples: Sequence[Example], num_generations: int, sampling: Sampling, doing: str
    ) -> list[SampledAnswer] | None:
        """The answers to this process's prompts; None where a signal came.

        Each draws from a random stream of its own, which the place of its prompt among all of them says.
        """
        requests = [
            GenerationRequest(
                prompt=tuple(examples[place].tokens.tolist()),
                sampling=sampling,
                stream=(place * num_generations + number) % STREAMS,
                stop_ids=self.stop_ids,
                logprobs=0,
            )
            for place in self._places(self.group.ranks.rank, len(examples))
            for number in range(num_generations)
        ]
        if not requests:
            return []
        try:
            with Stage(self.emit, doing, total=len(requests), unit="answers") as told:
                results = whole_answers(self.model, requests, on_progress=told.advance_side_by_side, stop=self.stop)
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
        found: dict[int, list[SampledAnswer]] = {}
        for rank, numbers in enumerate(everybodys(self.group, as_numbers(own))):
            places = self._places(rank, prompts)
            answers = (
                own if rank == ranks.rank else from_numbers(numbers, len(places) * num_generations, self.tokenizer)
            )
            starts = range(0, len(answers), num_generations)
            found |= {at: answers[start : start + num_generations] for at, start in zip(places, starts, strict=True)}
        return [answer for place in range(prompts) for answer in found[place]]

    def _judged(self, prompts: Sequence[PromptRow], answers: Sequence[SampledAnswer], num_generations: int) -> Judged:
        """What the rewards of rank 0 say."""
        key = f"judged/{self._asked}"
        if not self.group.ranks.first:
            return self._heard(self.group.awaited(key), len(answers))
        try:
            judged = self.judge.judged(to_judge(prompts, answers, num_generations))
        except RewardsStopped:
            self.group.publish(key, STOPPED)
            raise SamplingStopped from None
        self._say(judged)
        self.group.publish(key, to_text([judged.names, [asdict(one) for one in judged.failures]]))
        self.group.broadcast(torch.from_numpy(judged.values))
        self.group.broadcast(torch.from_numpy(judged.totals))
        return judged

    def _say(self, judged: Judged) -> None:
        """Tell once of each reward that it judges answers one by one which it fails on together: it takes far longer
        then, and may be wrong of all of them. And once of answers of which none has a reward."""
        messages = {
            text.partition(":")[0]: f"reward {text}; it judges them in smaller numbers, which takes longer"
            for text in judged.retried
        }
        if len(judged.totals) and np.isnan(judged.totals).all():
            messages[""] = f"none of {len(judged.totals)} answers has a reward, so that a step learns nothing from them"
        for name, message in messages.items():
            if name not in self._told:
                self._told.add(name)
                self.emit(Note(message=message, level=Level.WARNING))

    def _heard(self, told: str, answers: int) -> Judged:
        """What rank 0 tells of its rewards."""
        if told == STOPPED:
            raise SamplingStopped
        names, failures = json.loads(told)
        values, totals = np.zeros((answers, len(names))), np.zeros(answers)
        self.group.broadcast(torch.from_numpy(values))
        self.group.broadcast(torch.from_numpy(totals))
        return Judged(tuple(names), values, totals, tuple(Failure(**one) for one in failures))
