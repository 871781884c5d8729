"""Requests of many threads are answered by one engine; closing and failing leave nobody waiting."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch

from helpers.models.tiny import write_model
from helpers.models.tiny_models import documents
from veneer.generation import scheduler
from veneer.generation.batch import generate
from veneer.generation.build import build_engine
from veneer.generation.engine_thread import EngineClosed, EngineThread
from veneer.generation.request import FinishReason, GenerationRequest
from veneer.generation.sampling import Sampling
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM

WAIT = 60.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    found = load_model(open_checkpoint(write_model(tmp_path_factory.mktemp("model"))), Loading(dtype=torch.float32))
    found.eval()
    return found


@pytest.fixture
def engine_thread(model: CausalLM) -> Iterator[EngineThread]:
    found = EngineThread(build_engine(model))
    yield found
    found.close()


def request(prompt: list[int], most: int) -> GenerationRequest:
    return GenerationRequest(prompt=tuple(prompt), sampling=Sampling(max_new_tokens=most))


def test_many_threads_ask_at_once(model: CausalLM, engine_thread: EngineThread) -> None:
    prompts = documents([3 + number % 7 for number in range(12)], vocab=model.spec.vocab_size)
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda prompt: engine_thread.submit(request(prompt, 6)).result(WAIT), prompts))
    expected = generate(model, prompts, sampling=Sampling(max_new_tokens=6), stop_ids=frozenset())
    assert [list(result.tokens) for result in results] == expected
    assert engine_thread.stats().new_tokens == 12 * 6


def test_draining_answers_what_is_there_and_takes_nothing_more(engine_thread: EngineThread) -> None:
    handle = engine_thread.submit(request([5, 6], 20))
    assert engine_thread.drain(WAIT)
    assert handle.result(WAIT).finished.reason is FinishReason.LENGTH
    assert not engine_thread.accepting
    with pytest.raises(EngineClosed):
        engine_thread.submit(request([5], 1))


def test_closing_cancels_what_is_there(engine_thread: EngineThread) -> None:
    handles = [engine_thread.submit(request([5, 6], 500)) for _ in range(3)]
    engine_thread.close()
    engine_thread.close()
    assert {handle.result(WAIT).finished.reason for handle in handles} == {FinishReason.CANCELLED}


def test_a_cancelled_request_frees_its_place(engine_thread: EngineThread) -> None:
    handle = engine_thread.submit(request([5, 6], 500))
    next(handle.events(WAIT))
    handle.cancel()
    assert handle.result(WAIT).finished.reason is FinishReason.CANCELLED
    assert engine_thread.drain(WAIT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failing_engine_ends_every_request_with_an_error(engine_thread: EngineThread) -> None:
    submitted = Event()

    def broken(event: object) -> None:
        submitted.wait(WAIT)
        raise RuntimeError("the listener is broken")

    engine_thread.submit(request([7], 3), on_event=broken)
    other = engine_thread.submit(request([5, 6], 500))
    submitted.set()
    # The second may have come too late to be taken on together with the first; either way it ends.
    assert other.result(WAIT).finished.reason in (FinishReason.ERROR, FinishReason.CANCELLED)
    assert not engine_thread.accepting


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_scheduler_that_fails_between_two_states_leaves_nobody_waiting(
    engine_thread: EngineThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = Event()

    def broken(before: bytes, tokens: Sequence[int], answered: int) -> bytes:
        submitted.wait(WAIT)
        raise RuntimeError("the key cannot be made")

    monkeypatch.setattr(scheduler, "content_key", broken)
    handles = [engine_thread.submit(request([5, 6] * length, 5)) for length in (60, 61)]
    submitted.set()
    reasons = {handle.result(WAIT).finished.reason for handle in handles}
    assert reasons <= {FinishReason.ERROR, FinishReason.CANCELLED}
    assert not engine_thread.accepting


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("fails", ["never", "always", "at the end"])
def test_what_follows_a_step_follows_the_last_event_too(model: CausalLM, fails: str) -> None:
    told: list[str] = []

    def listen(event: object) -> None:
        told.append(type(event).__name__)
        if (fails == "always" and len(told) > 6) or (fails == "at the end" and told[-1] == "Finished"):
            raise RuntimeError("the listener is broken")

    engine_thread = EngineThread(build_engine(model), after_step=lambda: told.append("step"))
    engine_thread.submit(request([5, 6], 500), on_event=listen)
    while len(told) <= 6:
        time.sleep(0.001)
    engine_thread.close()
    assert told[-1] == "step"
    assert "Finished" in told
    steps = [index for index, one in enumerate(told) if one == "step"]
    assert max(second - first for first, second in itertools.pairwise(steps)) <= 3
