"""Answers to evaluation rows during a run, by which its evaluations are compared (`train.best_metric`).

At every evaluation the current model answers the same rows greedily, and the metrics of `veneer evaluate` score the
answers. This draws no random numbers, computes no gradients, and restores the mode that the model was in. So the losses
of the run are those that it has without answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from veneer.data.encoded.chat import Example
from veneer.errors import ConfigError, OutOfMemory
from veneer.evaluation.metrics.base import AnsweredRow, TaskMetric, TaskResult
from veneer.evaluation.metrics.choose import METRICS
from veneer.evaluation.rows import EXTRA_TOKENS
from veneer.evaluation.scoring import compare_answer
from veneer.evaluation.statistics.measures import mean_of
from veneer.events import Note, Stage, Subscriber
from veneer.generation.batch import OnToken, answer_all, cached_bytes
from veneer.generation.request import GenerationRequest
from veneer.generation.sampling import Sampling
from veneer.generation.share import WHOLE_SHARE, Share
from veneer.io.tokenizer import Tokenizer
from veneer.machine.out_of_memory import KINDS, is_out_of_memory, message_of
from veneer.model.language import LanguageModel
from veneer.runtime.signals import stop_signalled
from veneer.text.counting import count_of
from veneer.training.evaluations.best import EXACT, BestBy
from veneer.training.memory_use.out_of_memory import release_memory
from veneer.training.objectives.base import Means

MOST = 128
"""The largest number of evaluation rows that are answered, from the first on. An evaluation should not take longer than
the steps between two of them."""


@dataclass(frozen=True, slots=True)
class AskedRow:
    """An evaluation row as a question."""

    where: str
    """File and line."""
    prompt: tuple[int, ...]
    """The row's tokens before its last answer."""
    reference: str
    """The last answer, without control tokens."""
    tokens: int
    """Tokens of the reference."""


def last_answer(example: Example) -> slice | None:
    """The tokens of a row's last answer; None if it has none, as plain text."""
    trained = np.flatnonzero(example.loss_mask)
    if not len(trained):
        return None
    gaps = np.flatnonzero(np.diff(trained) > 1)
    first = int(trained[gaps[-1] + 1] if len(gaps) else trained[0])
    return slice(first, int(trained[-1]) + 1) if first > 1 else None


def asked_rows(examples: Iterable[Example], tokenizer: Tokenizer) -> list[AskedRow]:
    """The first evaluation rows that have an answer, as questions."""
    asked: list[AskedRow] = []
    for example in examples:
        answer = last_answer(example)
        if answer is None:
            continue
        reference = tokenizer.decode(example.tokens[answer].tolist())
        prompt = tuple(example.tokens[: answer.start].tolist())
        asked.append(AskedRow(example.where, prompt, reference, len(tokenizer.encode(reference))))
        if len(asked) == MOST:
            break
    return asked


def exact(rows: Sequence[AnsweredRow]) -> TaskResult:
    """The share of answers that are the reference (`veneer.evaluation.scoring.compare_answer`)."""
    share = mean_of(EXACT, [float(compare_answer(row.answer, row.reference)[0]) for row in rows])
    return TaskResult([] if share is None else [share])


def metric_on(by: BestBy, rows: Sequence[AskedRow]) -> TaskMetric:
    """The metric that scores the answers, which measures something on these rows.

    Raises:
        ConfigError: no row has an answer, the metric has nothing to measure in the references, or it needs a package
            that is missing.
    """
    metric = exact if by.metric == EXACT else METRICS[by.metric]
    if not rows:
        raise ConfigError(
            f"train.best_metric {by.metric} is measured on answers, and no evaluation row has one (all are plain "
            "text); use loss"
        )
    if by.measure not in _measured(metric, rows, [row.reference for row in rows]):
        raise ConfigError(
            f"train.best_metric {by.metric} finds nothing to measure in the references of the evaluation rows "
            f"({rows[0].where}: {rows[0].reference[:80]!r}); use another metric, or loss"
        )
    return metric


def _measured(metric: TaskMetric, rows: Sequence[AskedRow], answers: Sequence[str]) -> dict[str, float]:
    """The measures of answers by name."""
    answered = [AnsweredRow(row.where, "", row.reference, answer) for row, answer in zip(rows, answers, strict=True)]
    return {measure.name: measure.total for measure in metric(answered).measures}


@dataclass(slots=True)
class MeasuredAnswers:
    """Answers the evaluation rows of one run, and measures the answers."""

    model: LanguageModel
    rows: Sequence[AskedRow]
    metric: TaskMetric
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    room: int
    """The most tokens that are computed side by side: those of a micro-batch. A single row is always computed."""
    emit: Subscriber
    share: Share = WHOLE_SHARE
    """The rows that this process answers; every process measures all answers."""

    def measure(self) -> dict[str, float] | None:
        """The measures of the current model's answers, by name; None if a signal ended the measurement, here or in
        another process.

        If the memory is full, it starts again with fewer rows side by side.

        Raises:
            OutOfMemory: one row alone does not fit.
            RankLost: another process is gone.
        """
        own = self.share.own(len(self.rows))
        made = self._answers(own, self.stop_ids, stop_signalled)
        outputs = self.share.all([None] * len(own) if stop_signalled() else made, len(self.rows))
        if None in outputs:
            return None
        return _measured(self.metric, self.rows, [self.tokenizer.decode(tokens) for tokens in outputs])

    def longest_seconds(self, most: float) -> float:
        """An upper bound on the seconds that the answers take: the time that they need if each is as long as an answer
        may be.

        The real length of an answer depends on what the model has learned by then, and is unknown. So the first rows
        that are answered side by side are answered without a stop token, for about `most` seconds.

        Raises:
            OutOfMemory: one row alone does not fit.
        """
        begun, made = time.perf_counter(), 0

        def late(row: int, token: int) -> None:
            nonlocal made
            made += 1

        def stop() -> bool:
            # A prompt that was read without a token after it does not show how long an answer takes.
            return stop_signalled() or (made > 0 and time.perf_counter() - begun >= most)

        self._answers(range(min(self._together, len(self.rows))), frozenset(), stop, late)
        return (time.perf_counter() - begun) * self._longest * len(self.rows) / max(1, made)

    @property
    def _longest(self) -> int:
        """The most tokens of an answer."""
        return min(max(row.tokens for row in self.rows) + EXTRA_TOKENS, self.model.spec.max_positions)

    @property
    def _together(self) -> int:
        """The number of rows that are answered side by side if the memory has room for them."""
        return max(1, self.room // self._row_tokens)

    @property
    def _row_tokens(self) -> int:
        """The most tokens of a prompt with its answer."""
        return max(len(row.prompt) for row in self.rows) + self._longest

    def _answers(
        self,
        own: Sequence[int],
        stop_ids: frozenset[int],
        stop: Callable[[], bool],
        on_token: OnToken = lambda row, token: None,
    ) -> list[list[int]]:
        """The tokens of the answers to some rows; the tokens made so far once `stop` is true."""
        together = self._together
        while isinstance(outputs := self._attempt(own, stop_ids, stop, on_token, together), str):
            release_memory(self.model.device)
            if together == 1:
                message = message_of("answering an evaluation row", outputs)
                raise OutOfMemory(f"{message} train.best_metric loss needs no answers.")
            together //= 2
            self.emit(
                Note(message=f"the memory is full: answering {count_of(together, 'evaluation row')} side by side")
            )
        return outputs

    def _attempt(
        self,
        own: Sequence[int],
        stop_ids: frozenset[int],
        stop: Callable[[], bool],
        on_token: OnToken,
        together: int,
    ) -> list[list[int]] | str:
        """The tokens of all answers; the message of the error if the memory is full."""
        sampling = Sampling(max_new_tokens=self._longest)
        requests = [
            GenerationRequest(prompt=self.rows[number].prompt, sampling=sampling, stop_ids=stop_ids) for number in own
        ]
        try:
            with Stage(self.emit, "answering evaluation rows", total=len(requests), unit="rows") as stage:
                return answer_all(
                    self.model,
                    requests,
                    on_token=on_token,
                    on_progress=stage.advance_side_by_side,
                    stop=stop,
                    batch_rows=together,
                    # Otherwise the cache would keep what ended rows computed, up to a size that no plan includes.
                    cache_bytes=together * cached_bytes(self.model, self._row_tokens),
                )
        except KINDS as error:
            if not is_out_of_memory(error):
                raise
            return str(error)


def with_answers(losses: Callable[[], Means | None], answers: MeasuredAnswers) -> Callable[[], Means | None]:
    """An evaluation that measures the losses of rows, and then answers to them."""

    def evaluate() -> Means | None:
        means = losses()
        measured = None if means is None else answers.measure()
        return None if means is None or measured is None else means.with_metrics(measured)

    return evaluate
