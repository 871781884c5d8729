"""Samples during a run: the answers to fixed prompts after every so many steps, within 3 % of the run's time.

Samples are made when the time that they are expected to take is within 3 % of the run's time so far, less the time of
earlier samples. Otherwise they wait for the first later step at which it is. The time of the first ones is unknown:
they begin once reading their prompts is affordable, and their answers are cut short when the time is used up.

Answers are greedy and draw no random numbers, no gradient is computed, and the mode of the model is restored. So the
bytes of the run are those that it has without samples. Samples need less memory than a micro-batch: prompts and answers
together have no more tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from veneer.data.encoded.chat import Encoder, Example
from veneer.events import Level, Note, SamplesAnswered, Subscriber
from veneer.generation.batch import answer_all
from veneer.generation.request import GenerationRequest
from veneer.generation.sampling import Sampling
from veneer.io.tokenizer import Tokenizer
from veneer.machine.out_of_memory import KINDS, is_out_of_memory
from veneer.model.language import LanguageModel
from veneer.runtime.signals import stop_signalled
from veneer.training.evaluations.answers import last_answer
from veneer.training.folder.progress import Progress
from veneer.training.memory_use.out_of_memory import release_memory

SHARE = 0.03
"""The largest share of a run's time that samples take."""
PROMPTS = 4
"""The number of rows that are asked if the configuration names no prompts."""
NEW_TOKENS = 64
"""The longest answer, in tokens."""
LONGEST = 512
"""The longest prompt of a row that is asked, in tokens."""
BEGINNING = 16
"""The number of tokens from a plain text, which asks nothing, that the model has to continue."""


@dataclass(frozen=True, slots=True)
class SamplePrompt:
    """A prompt, as text and as tokens."""

    text: str
    tokens: tuple[int, ...]


def named_prompts(texts: Sequence[str], encoder: Encoder) -> list[SamplePrompt]:
    """Prompts of the configuration, each as the only message of a conversation.

    Raises:
        DataError: the chat template refuses one.
    """
    return [SamplePrompt(text, tuple(encoder.prompt_tokens([{"role": "user", "content": text}]))) for text in texts]


def row_prompts(examples: Iterable[Example], tokenizer: Tokenizer, room: int) -> list[SamplePrompt]:
    """The prompts of the first rows: what comes before their last answer.

    Args:
        examples: the rows.
        tokenizer: the tokenizer of the model.
        room: the most tokens of prompts and answers together; at least one prompt is used if any is short enough.
    """
    prompts: list[SamplePrompt] = []
    for example in examples:
        tokens = example.tokens[: _end_of_prompt(example)].tolist()
        taken = sum(len(prompt.tokens) + NEW_TOKENS for prompt in prompts)
        if any(list(prompt.tokens) == tokens for prompt in prompts):
            continue  # two answers to one question, of a run on preferences
        if len(tokens) > LONGEST or (prompts and taken + len(tokens) + NEW_TOKENS > room):
            continue
        prompts.append(SamplePrompt(tokenizer.decode(tokens).strip(), tuple(tokens)))
        if len(prompts) == PROMPTS:
            break
    return prompts


def _end_of_prompt(example: Example) -> int:
    """Where the last answer of a row begins. For a plain text this is after a few tokens, for a prompt without an
    answer at its end."""
    if not example.supervised:
        return len(example.tokens)
    answer = last_answer(example)
    return min(BEGINNING, max(1, len(example.tokens) // 2)) if answer is None else int(answer.start)


@dataclass(slots=True)
class ShownPrompts:
    """Answers the prompts of one run during training."""

    model: LanguageModel
    prompts: Sequence[SamplePrompt]
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    every: int
    """The number of steps between samples, if the time allows it."""
    last_step: int
    emit: Subscriber
    clock: Callable[[], float] = time.perf_counter
    _due: bool = field(init=False, default=False)
    _spent: float = field(init=False, default=0.0)
    """The seconds that samples have taken in this process."""
    _expected: float | None = field(init=False, default=None)
    """The seconds that all answers are expected to take; None before the first ones."""
    _full: bool = field(init=False, default=False)
    """Whether there was not enough memory for samples."""

    def after_step(self, progress: Progress, elapsed: float) -> None:
        """Make the samples that are due, if there is time for them.

        Args:
            progress: the position of the run.
            elapsed: seconds since the run or its resumption began, including samples.
        """
        self._due = (self._due or progress.step % self.every == 0) and not self._full
        if not self._due:
            return
        budget = SHARE * elapsed - self._spent
        expected = self._expected
        if expected is None:
            # A training pass over tokens takes longer than one that only reads them.
            tokens = sum(len(prompt.tokens) for prompt in self.prompts)
            expected = tokens * progress.seconds / max(1, progress.tokens)
        if expected <= budget:
            self._answer(progress.step, elapsed, budget)
        elif progress.step == self.last_step and self._expected is None:
            message = (
                f"train.samples_every: no samples, since they would have taken more than {SHARE:.0%} of the time of so "
                "short a run"
            )
            self.emit(Note(message=message))

    def _answer(self, step: int, elapsed: float, budget: float) -> None:
        begun = self.clock()
        late = False

        def stop() -> bool:
            nonlocal late
            late = self.clock() - begun >= budget or stop_signalled()
            return late

        sampling = Sampling(max_new_tokens=NEW_TOKENS)
        requests = [
            GenerationRequest(prompt=prompt.tokens, sampling=sampling, stop_ids=self.stop_ids)
            for prompt in self.prompts
        ]
        try:
            outputs = answer_all(self.model, requests, stop=stop)
        except KINDS as error:
            if not is_out_of_memory(error):
                raise
            outputs = None
        if outputs is None:
            self._full = True
            release_memory(self.model.device)
            self.emit(Note(message="the memory is full: the run makes no more samples", level=Level.WARNING))
            return
        answers = tuple(self.tokenizer.decode(tokens) for tokens in outputs)
        seconds = self.clock() - begun
        made = max(map(len, outputs), default=0)
        # The rest of the answers that were cut short would have taken its share of the time.
        self._expected = seconds * (NEW_TOKENS / max(1, made) if late else 1.0)
        self._spent += seconds
        self._due = False
        self.emit(
            SamplesAnswered(
                step=step,
                prompts=tuple(prompt.text for prompt in self.prompts),
                answers=answers,
                cut_short=late,
                seconds=seconds,
                share=self._spent / (elapsed + seconds),
            )
        )
