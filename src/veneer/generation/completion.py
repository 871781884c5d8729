"""One request's completion in the making: its draws, its log-probabilities, its text and its end."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from veneer.generation.logprobs import token_logprob
from veneer.generation.request import (
    STREAMS_PER_SEED,
    Finished,
    FinishReason,
    GenerationHandle,
    PromptScored,
    TokenLogprob,
    TokenMade,
)
from veneer.generation.runner import StepOutput
from veneer.generation.sampling import adjusted, broken_logits, choose, likeliest, undrawable
from veneer.generation.sequence import SequenceState, Work
from veneer.generation.text import StoppedText, TokenDecoder


class Completion:
    """Makes tokens of logits and events of tokens.

    Args:
        handle: receives the events.
        sequence: receives the tokens.
        decoder: the tokenizer; without one there is no text.
        stop_ids: the tokens that end the answer.
    """

    def __init__(
        self, handle: GenerationHandle, sequence: SequenceState, decoder: TokenDecoder | None, stop_ids: frozenset[int]
    ):
        self.handle = handle
        self._sequence, self._stop_ids = sequence, stop_ids
        self._text = None if decoder is None else StoppedText(decoder, handle.request.stop)
        self._generator: torch.Generator | None = None
        self._prompt_scores: dict[int, TokenLogprob] = {}
        self._scored = handle.request.prompt_logprobs is None
        self._stop: str | int | None = None
        self._end: TokenLogprob | None = None
        self._made = 0
        self._greedy = handle.request.sampling.plain and handle.request.constraint is None

    @property
    def prompt_top(self) -> int | None:
        """How many of the likeliest tokens are wanted with each of the prompt's; None if these are not scored, or have
        been already."""
        return None if self._scored else self.handle.request.prompt_logprobs

    def score_prompt(self, work: Work, scored: Iterable[TokenLogprob]) -> None:
        """Process the log-probabilities of the prompt's tokens that follow those of a step's work.

        Raises:
            ModelError: one is NaN.
        """
        scored = list(scored)
        for one in scored:
            _check_number(one)
        self._prompt_scores |= dict(enumerate(scored, work.start + 1))
        if work.ends:
            self._scored = True
            scores = [self._prompt_scores[place] for place in range(1, self._sequence.prompt_tokens)]
            self.handle.emit(PromptScored((None, *scores)))

    def next_token(self, output: StepOutput) -> FinishReason | None:
        """Choose the next token from the output for the last one. Returns why the answer ends, or None.

        Raises:
            ConfigError: the request's constraint cannot say what may come next, or nothing may.
            ModelError: no token can be drawn from the model's logits, or has a log-probability under them.
        """
        request, sequence = self.handle.request, self._sequence
        token = self._choose(output)
        if request.constraint is not None:
            request.constraint.accept(token)
        logprob = None
        if request.logprobs is not None:
            logprob = _check_number(token_logprob(output.logits[-1], token, request.logprobs))
        if token in self._stop_ids:
            self._stop, self._end = token, logprob
            return FinishReason.STOP
        sequence.tokens.append(token)
        self._made += 1
        piece = "" if self._text is None else self._text.push(token)
        self.handle.emit(TokenMade(token, piece, logprob))
        if self._text is not None and self._text.found is not None:
            self._stop = self._text.found
            return FinishReason.STOP
        return FinishReason.LENGTH if len(sequence.tokens) == sequence.capacity else None

    def finish(self, reason: FinishReason, *, error: str | None = None, refused: bool = False) -> None:
        """Emit the rest of the text, and the end."""
        sequence, rest = self._sequence, ""
        if self._text is not None and self._text.found is None:
            rest = self._text.finish()
            if self._text.found is not None and reason in (FinishReason.LENGTH, FinishReason.STOP):
                # It ended neither by an error nor by a cancellation.
                reason = FinishReason.STOP
                self._stop = self._text.found if self._stop is None else self._stop
        self.handle.emit(
            Finished(
                reason=reason,
                text=rest,
                prompt_tokens=sequence.prompt_tokens,
                cached_tokens=sequence.cached_tokens,
                new_tokens=self._made,
                stop=self._stop,
                end=self._end,
                error=error,
                refused=refused,
                adapter_key=self.handle.adapter_key,
            )
        )

    def _choose(self, output: StepOutput) -> int:
        request, sampling = self.handle.request, self.handle.request.sampling
        held = self._made < sampling.min_new_tokens and bool(self._stop_ids)
        if self._greedy and not held:
            return output.likeliest
        scores = adjusted(output.logits[-1], sampling, request.prompt, self._sequence.answer)
        if held:
            scores[sorted(self._stop_ids)] = float("-inf")
        if request.constraint is not None:
            scores = scores.cpu()
            request.constraint.restrict(scores)
        if sampling.temperature == 0.0:
            token = likeliest(scores[None])[0]
            if (held or request.constraint is not None) and float(scores[token]) == -math.inf:
                raise undrawable(scores)
            return token
        if self._generator is None:  # made at the first draw: each takes 2.7 kB, and most requests wait or are greedy
            self._generator = torch.Generator().manual_seed(sampling.seed * STREAMS_PER_SEED + request.stream)
        return choose(scores, sampling, self._generator)


def _check_number(found: TokenLogprob) -> TokenLogprob:
    """The log-probability. Raises ModelError if it is NaN: logits with NaN or +∞ give none."""
    if math.isnan(found.logprob):
        raise broken_logits("for some tokens, and none has a log-probability under them")
    return found
