"""The engine: requests come and go at any time, and every step computes some tokens of all open requests.

`submit` and `stats` may be called on any thread, everything else on one.
`veneer.generation.engine_thread.EngineThread` has a thread of its own for that.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from veneer.errors import ConfigError, ModelError
from veneer.generation.blocks import BlockPool
from veneer.generation.completion import Completion
from veneer.generation.prompt_budget import PromptBudget
from veneer.generation.request import FinishReason, GenerationEvent, GenerationHandle, GenerationRequest
from veneer.generation.runner import AdapterLease, AdapterSource, LoadedAdapter, Runner, StepInput, StepOutput, Wanted
from veneer.generation.scheduler import Limits, Scheduler
from veneer.generation.sequence import SequenceState, Work
from veneer.generation.text import TokenDecoder
from veneer.model.language import LanguageModel


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStats:
    """The state and the counters of the engine."""

    running: int
    """The number of sequences whose tokens are being computed."""
    waiting: int
    """The number of sequences that wait for a place, or for their adapter."""
    cache_bytes: int
    """The bytes of the cache's blocks, including those of idle shared beginnings."""
    cache_budget: int
    cache_idle_bytes: int
    """The bytes of blocks that are kept only for sharing."""
    asked_tokens: int
    """The prompt tokens of all admitted sequences."""
    shared_tokens: int
    """Prompt tokens among them that were found in the cache."""
    prompt_tokens: int
    """The prompt tokens that were computed."""
    new_tokens: int
    """The tokens that were generated."""
    preemptions: int


@dataclass(slots=True)
class _Active:
    """A request that has not ended."""

    sequence: SequenceState
    completion: Completion
    lease: AdapterLease | None


class GenerationEngine:
    """Carries out requests of one base model.

    Args:
        runner: computes the steps.
        model: the base.
        cache_bytes: the bytes that keys and values may use.
        limits: the limits of a step.
        decoder: the tokenizer; without one there is no text, and stop strings are refused.
        stop_ids: the tokens that end an answer unless a request says otherwise.
        adapters: the source of adapters; without one there is only the base.
    """

    def __init__(
        self,
        runner: Runner,
        model: LanguageModel,
        *,
        cache_bytes: int,
        limits: Limits,
        decoder: TokenDecoder | None = None,
        stop_ids: frozenset[int] = frozenset(),
        adapters: AdapterSource | None = None,
    ):
        self._runner, self._spec = runner, model.spec
        self._decoder, self._stop_ids, self._adapters = decoder, stop_ids, adapters
        self._scheduler = Scheduler(BlockPool(runner.groups, cache_bytes), limits, prompts_apart=runner.prompts_apart)
        self._budget = PromptBudget(limits)
        self._lock = threading.Lock()
        self._arrived: queue.SimpleQueue[_Active] = queue.SimpleQueue()
        self._loading: dict[int, _Active] = {}
        self._active: dict[int, _Active] = {}
        self._numbers, self._submitted, self._ended = itertools.count(), 0, 0
        self._prompt_tokens = self._new_tokens = 0
        self._checked: tuple[int, ...] = ()
        """The last prompt that was found to have only tokens of the model."""

    def submit(
        self,
        request: GenerationRequest,
        *,
        on_event: Callable[[GenerationEvent], None] | None = None,
        wake: Callable[[], None] = lambda: None,
    ) -> GenerationHandle:
        """Accept a request; the next steps compute its first tokens. This may be called on any thread.

        Args:
            request: the request.
            on_event: see `GenerationHandle`.
            wake: called, on any thread, when a further step has something to do: an adapter has been loaded, or the
                request is cancelled.

        Raises:
            AdapterError: there is no adapter of that name.
            ConfigError: the request can never be carried out: it is larger than the cache, asks for more tokens than
                the model's context has, needs a tokenizer that the engine lacks, or names tokens that do not exist.
        """
        sequence = self._sequence(request, next(self._numbers))
        lease = None
        if request.adapter is not None:
            assert self._adapters is not None
            lease = self._adapters.lease(request.adapter, wake)
        handle = GenerationHandle(request, on_event, wake)
        with self._lock:
            self._submitted += 1
        self._arrived.put(_Active(sequence, Completion(handle, sequence, self._decoder, self._ends_of(request)), lease))
        return handle

    def check(self, request: GenerationRequest) -> None:
        """Raise ConfigError as `submit` does, without carrying the request out. It gets no number."""
        self._sequence(request, 0)

    @property
    def longest(self) -> int:
        """The most tokens of a prompt of the base and its answer: those of the context, or fewer in a small cache."""
        return self._scheduler.longest(self._runner.placement(None), self._spec.max_positions)

    def step(self) -> bool:
        """Compute some tokens of the open requests.

        Returns whether a further step has something to do; it has not if all requests wait for their adapters.
        """
        self._take_arrivals()
        self._end_cancelled()
        self._start_loaded()
        work = self._scheduler.plan(self._budget.tokens)
        if work:
            self._compute(work)
        return bool(self._active) or not self._arrived.empty()

    @property
    def idle(self) -> bool:
        """Whether all requests have ended. This may be called on any thread."""
        return self._submitted == self._ended

    def stats(self) -> EngineStats:
        """See `EngineStats`."""
        scheduler, pool = self._scheduler, self._scheduler.pool
        return EngineStats(
            running=len(scheduler.running),
            waiting=self._submitted - self._ended - len(scheduler.running),
            cache_bytes=pool.used_bytes,
            cache_budget=pool.budget,
            cache_idle_bytes=pool.idle_bytes,
            asked_tokens=scheduler.asked_tokens,
            shared_tokens=scheduler.shared_tokens,
            prompt_tokens=self._prompt_tokens,
            new_tokens=self._new_tokens,
            preemptions=scheduler.preemptions,
        )

    def close(self) -> None:
        """End all requests as cancelled, and free the cache."""
        self._end_all(FinishReason.CANCELLED)
        self._runner.close()

    def fail(self, message: str) -> None:
        """End all requests with an error, because the engine cannot go on."""
        self._end_all(FinishReason.ERROR, error=message)

    def _end_all(self, reason: FinishReason, *, error: str | None = None) -> None:
        self._take_arrivals()
        # If one listener raises, the others are still notified.
        with ExitStack() as ends:
            for active in [*self._active.values(), *self._loading.values()]:
                ends.callback(self._end, active, reason, error=error)

    def _sequence(self, request: GenerationRequest, number: int) -> SequenceState:
        """The sequence of a request that can be carried out."""
        self._check(request)
        sequence = SequenceState(
            number=number,
            adapter=request.adapter or "",
            root=None,
            prompt=request.prompt,
            prompt_tokens=len(request.prompt),
            capacity=len(request.prompt) + request.sampling.max_new_tokens,
        )
        self._fit(sequence, request)
        return sequence

    def _fit(self, sequence: SequenceState, request: GenerationRequest) -> None:
        """Check that the cache can hold a sequence, whose answer is cut to fit if its request allows it."""
        if request.cut_to_cache:
            least = sequence.prompt_tokens + max(1, request.sampling.min_new_tokens)
            sequence.capacity = max(least, self._scheduler.longest(sequence.placement, sequence.capacity))
        self._scheduler.check(sequence)

    def _check(self, request: GenerationRequest) -> None:
        sampling, spec = request.sampling, self._spec
        sampling.check_vocabulary(spec.vocab_size)
        sampling.check_context(spec.max_positions)
        self._check_prompt(request.prompt)
        if request.stop and self._decoder is None:
            raise ConfigError("stop strings need a tokenizer, but this engine has none; give stop_ids")
        if request.adapter is not None and self._adapters is None:
            raise ConfigError(f"adapter: {request.adapter!r}, but this engine serves only the base")

    def _check_prompt(self, prompt: tuple[int, ...]) -> None:
        # Several answers to one prompt are requested one after another, and checking a long prompt takes milliseconds.
        if prompt is self._checked:
            return
        size = self._spec.vocab_size
        strange = [token for token in prompt if not 0 <= token < size]
        if strange:
            raise ConfigError(f"the prompt has tokens that the model does not have ({size:,} in all): {strange[:8]}")
        self._checked = prompt

    def _ends_of(self, request: GenerationRequest) -> frozenset[int]:
        """The tokens that end an answer. Files may name ids for which the model has no token: these are never
        generated, and have no logit."""
        ids = self._stop_ids if request.stop_ids is None else request.stop_ids
        return frozenset(token for token in ids if 0 <= token < self._spec.vocab_size)

    def _take_arrivals(self) -> None:
        while not self._arrived.empty():
            active = self._arrived.get()
            self._loading[active.sequence.number] = active

    def _start(self, active: _Active) -> None:
        """Hand a request, whose adapter is in memory, to the scheduler."""
        sequence, adapter = active.sequence, self._adapter_of(active)
        active.completion.handle.adapter_key = None if adapter is None else adapter.key
        sequence.placement = self._runner.placement(adapter)
        # Under LongRoPE and its like, what is cached depends on the length of the whole text.
        shares = not self._spec.by_length and active.completion.handle.request.prompt_logprobs is None
        sequence.root = (b"" if adapter is None else adapter.key) if shares else None
        try:
            self._fit(sequence, active.completion.handle.request)
        except ConfigError as error:
            self._end(active, FinishReason.ERROR, error=str(error), refused=True)
            return
        self._active[sequence.number] = active
        self._scheduler.add(sequence)

    def _start_loaded(self) -> None:
        for number, active in list(self._loading.items()):
            lease = active.lease
            if lease is not None and lease.error is not None:
                self._end(active, FinishReason.ERROR, error=str(lease.error))
            elif lease is None or lease.adapter is not None:
                del self._loading[number]
                self._start(active)

    def _end_cancelled(self) -> None:
        for active in [*self._active.values(), *self._loading.values()]:
            if active.completion.handle.cancelled:
                self._end(active, FinishReason.CANCELLED)

    def _end(self, active: _Active, reason: FinishReason, *, error: str | None = None, refused: bool = False) -> None:
        number = active.sequence.number
        # If the scheduler has failed between two of its states, the listener is still notified.
        with ExitStack() as ends:
            ends.callback(active.completion.finish, reason, error=error, refused=refused)
            if active.lease is not None:
                ends.callback(active.lease.release)
            self._ended += 1
            self._loading.pop(number, None)
            if self._active.pop(number, None) is not None:
                self._scheduler.remove(active.sequence)

    def _compute(self, work: list[Work]) -> None:
        started = time.perf_counter()
        inputs = [self._input(one) for one in work]
        outputs = self._runner.compute(inputs, self._scheduler.pool.drained())
        for one in work:
            self._prompt_tokens += max(0, min(one.start + one.count, one.sequence.prompt_tokens) - one.start)
        self._scheduler.computed(work)
        for one, output in zip(work, outputs, strict=True):
            if output is not None:
                self._advance(self._active[one.sequence.number], one, output)
        prompts = sum(one.count for one in work if one.count > 1)
        self._budget.computed(prompts, sum(one.count == 1 for one in work), time.perf_counter() - started)

    def _input(self, work: Work) -> StepInput:
        active = self._active[work.sequence.number]
        wanted, top = Wanted.LAST if work.ends else Wanted.NONE, active.completion.prompt_top
        if top is not None:
            return StepInput(work, self._adapter_of(active), Wanted.ALL, top)
        return StepInput(work, self._adapter_of(active), wanted)

    def _advance(self, active: _Active, work: Work, output: StepOutput) -> None:
        """Process the output for a sequence's tokens, and choose the next token if the last one is among them."""
        before = len(active.sequence.tokens)
        try:
            if active.completion.prompt_top is not None:
                active.completion.score_prompt(work, output.scored)
            if not work.ends:
                return
            reason = active.completion.next_token(output)
        except (ConfigError, ModelError) as error:
            # Logits that are not finite are not the request's fault; other requests continue.
            self._end(active, FinishReason.ERROR, error=str(error), refused=isinstance(error, ConfigError))
            return
        self._new_tokens += len(active.sequence.tokens) - before
        if reason is not None:
            self._end(active, reason)
        elif active.sequence.computed in self._runner.outgrown:
            # With one more token, the whole text is rotated by other angles.
            self._scheduler.restart(active.sequence)

    @staticmethod
    def _adapter_of(active: _Active) -> LoadedAdapter | None:
        return None if active.lease is None else active.lease.adapter
