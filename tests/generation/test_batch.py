"""Generation is transformers' where it is greedy, the distribution that was asked for where it draws, and one row
never depends on another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType

from helpers.gguf.files import tiny_model, write_model
from helpers.models.tiny_models import SHAPES, documents, ours, packed_logits, randomised, tiny_llama
from veneer.errors import ConfigError, DataError
from veneer.generation import batch
from veneer.generation.batch import BATCH_ROWS, REQUESTS_PER_ROW, answer_all, generate, whole_answers
from veneer.generation.blocks import BlockGroup, BlockId
from veneer.generation.engine import GenerationEngine
from veneer.generation.request import STREAMS_PER_SEED, FinishReason, GenerationRequest
from veneer.generation.runner import LoadedAdapter, StepInput, StepOutput, Wanted
from veneer.generation.sampling import Sampling
from veneer.generation.sequence import Placement
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM

LENGTHS = [5, 1, 12, 9, 5, 3]
NONE: frozenset[int] = frozenset()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    return ours(tiny_llama(seed=4), tmp_path_factory.mktemp("model"))


def one_at_a_time(model: CausalLM, prompt: list[int], stop: frozenset[int], most: int) -> list[int]:
    """Greedy by running the whole text again for every token."""
    text = list(prompt)
    while len(text) - len(prompt) < most:
        with torch.no_grad():
            token = int(packed_logits(model, [text])[-1].argmax())
        if token in stop:
            break
        text.append(token)
    return text[len(prompt) :]


def test_greedy_equals_transformers(model: CausalLM) -> None:
    theirs = tiny_llama(seed=4)
    for prompt in documents(LENGTHS):
        expected = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0, len(prompt) :]
        assert generate(model, [prompt], sampling=Sampling(max_new_tokens=20), stop_ids=NONE) == [expected.tolist()]


@pytest.mark.parametrize("batch_rows", [1, 2, 4, 96])
def test_greedy_does_not_depend_on_the_batch(batch_rows: int, model: CausalLM) -> None:
    prompts = documents(LENGTHS)
    free = [one_at_a_time(model, prompt, NONE, 15) for prompt in prompts]
    # Stop ids that end some rows early, some late and some not at all.
    stop = frozenset({free[0][0], free[2][4], free[3][9]})
    expected = [one_at_a_time(model, prompt, stop, 15) for prompt in prompts]
    assert len({len(tokens) for tokens in expected}) > 2
    results = generate(model, prompts, sampling=Sampling(max_new_tokens=15), stop_ids=stop, batch_rows=batch_rows)
    assert results == expected


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_from_a_gguf_file_does_not_depend_on_the_batch(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", randomised(tiny_model(), 3), GGMLQuantizationType[kind])
    model = load_model(open_checkpoint(tmp_path / "m.gguf"), Loading(dtype=dtype))
    prompts = [[token % 40 for token in prompt] for prompt in documents(LENGTHS)]
    sampling = Sampling(max_new_tokens=15)
    alone = [generate(model, [prompt], sampling=sampling, stop_ids=NONE)[0] for prompt in prompts]
    assert len({tuple(answer) for answer in alone}) > 2
    for batch_rows in (2, 6):
        assert generate(model, prompts, sampling=sampling, stop_ids=NONE, batch_rows=batch_rows) == alone
    if dtype is torch.float32:
        assert alone == [one_at_a_time(model, prompt, NONE, 15) for prompt in prompts]


def test_a_row_that_ended_may_go_on_beside_longer_answers(model: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prompt with a short answer, computed by the modules, as on a card: its row of the cache has no room for as
    many tokens as the answers beside it get."""
    monkeypatch.setattr(CausalLM, "compiled_step", lambda self, rows: None)
    prompts, most = documents([40, 5, 4, 6, 5, 3, 5]), [4] + 6 * [50]
    requests = [
        GenerationRequest(prompt=tuple(prompt), sampling=Sampling(max_new_tokens=count), stop_ids=NONE)
        for prompt, count in zip(prompts, most, strict=True)
    ]
    expected = [one_at_a_time(model, prompt, NONE, count) for prompt, count in zip(prompts, most, strict=True)]
    assert answer_all(model, requests) == expected


def test_rows_that_end_are_reported_once_and_streamed_in_order(model: CausalLM) -> None:
    prompts = documents(LENGTHS)
    stop = frozenset(range(0, SHAPES["vocab_size"], 9))
    streamed: list[list[int]] = [[] for _ in prompts]
    done: list[int] = []
    said: list[str] = []

    def progress(ended: int, under_way: float, made: str) -> None:
        done.append(ended)
        said.append(made)

    results = generate(
        model,
        prompts,
        sampling=Sampling(max_new_tokens=30),
        stop_ids=stop,
        on_token=lambda row, token: streamed[row].append(token),
        on_progress=progress,
        batch_rows=4,
    )
    assert streamed == results
    assert sum(done) == len(prompts)
    assert said[-1] == f"{sum(map(len, results))} tokens"
    assert not any(token in stop for tokens in results for token in tokens)


@pytest.mark.parametrize("most", [1, 2, 7])
def test_answers_end_at_max_new_tokens(most: int, model: CausalLM) -> None:
    results = generate(model, documents(LENGTHS), sampling=Sampling(max_new_tokens=most), stop_ids=NONE)
    assert [len(tokens) for tokens in results] == [most] * len(LENGTHS)


def test_a_first_token_that_stops_leaves_nothing(model: CausalLM) -> None:
    everything = frozenset(range(SHAPES["vocab_size"]))
    assert generate(model, documents([3, 8]), sampling=Sampling(), stop_ids=everything) == [[], []]
    assert generate(model, [], sampling=Sampling(), stop_ids=NONE) == []


def test_an_empty_prompt_is_refused_by_its_number(model: CausalLM) -> None:
    with pytest.raises(DataError) as caught:
        generate(model, [[5], [], [6], []], sampling=Sampling(max_new_tokens=2), stop_ids=NONE)
    assert "prompt 2" in str(caught.value)
    assert "prompt 4" in str(caught.value)


def test_the_mode_of_the_model_is_put_back(model: CausalLM) -> None:
    for training in (True, False):
        model.train(training)
        generate(model, [[5]], sampling=Sampling(max_new_tokens=1), stop_ids=NONE)
        assert model.training == training
    model.train()
    with pytest.raises(ConfigError, match="1000000"):
        generate(model, [[10**6]], sampling=Sampling(max_new_tokens=1), stop_ids=NONE)
    assert model.training
    model.eval()


def test_a_seed_is_reproduced_and_rows_draw_by_themselves(model: CausalLM) -> None:
    prompts = [[7, 8, 9]] * 3 + documents(LENGTHS)
    sampling = Sampling(max_new_tokens=12, temperature=0.8, top_p=0.95, seed=3)
    first = generate(model, prompts, sampling=sampling, stop_ids=NONE)
    assert generate(model, prompts, sampling=sampling, stop_ids=NONE) == first
    for batch_rows in (1, 4):
        assert generate(model, prompts, sampling=sampling, stop_ids=NONE, batch_rows=batch_rows) == first
    other = Sampling(max_new_tokens=12, temperature=0.8, top_p=0.95, seed=4)
    assert generate(model, prompts, sampling=other, stop_ids=NONE) != first
    assert len({tuple(tokens) for tokens in first[:3]}) == 3


def test_rows_that_stop_do_not_change_what_the_others_draw(model: CausalLM) -> None:
    prompts = documents(LENGTHS)
    sampling = Sampling(max_new_tokens=12, temperature=1.5)
    free = generate(model, prompts, sampling=sampling, stop_ids=NONE)
    stop = frozenset({free[0][2], free[4][0]})
    cut = [next((i for i, token in enumerate(tokens) if token in stop), len(tokens)) for tokens in free]
    expected = [tokens[:end] for tokens, end in zip(free, cut, strict=True)]
    assert generate(model, prompts, sampling=sampling, stop_ids=stop) == expected


STOP = 9
COUNT = 20_000


class StubRunner:
    """Computes nothing: the answer of each request has a length by its number, and then stops."""

    groups = (BlockGroup(8, None),)
    outgrown: frozenset[int] = frozenset()
    prompts_apart = False

    def __init__(self) -> None:
        self.steps: list[list[tuple[int, int, int]]] = []
        self.logits = torch.zeros(1, SHAPES["vocab_size"])

    def placement(self, adapter: LoadedAdapter | None) -> Placement:
        return Placement.BLOCKS

    def compute(self, inputs: Sequence[StepInput], dropped: Sequence[BlockId]) -> list[StepOutput | None]:
        works = [item.work for item in inputs]
        self.steps.append([(work.sequence.number, work.start, work.count) for work in works])
        tokens = [STOP if len(work.sequence.answer) == work.sequence.number % 5 else 3 for work in works]
        return [
            None if item.wanted is Wanted.NONE else StepOutput(self.logits, token)
            for item, token in zip(inputs, tokens, strict=True)
        ]

    def close(self) -> None:
        pass


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[tuple[GenerationEngine, StubRunner]]:
    """The engines that are built, which compute nothing."""
    built: list[tuple[GenerationEngine, StubRunner]] = []

    def build(model: CausalLM, *, router: object, **settings: Any) -> GenerationEngine:
        runner = StubRunner()
        built.append((GenerationEngine(runner, model, **settings), runner))
        return built[-1][0]

    monkeypatch.setattr(batch, "build_engine", build)
    return built


def asked(count: int, most: int = 4) -> list[GenerationRequest]:
    sampling = Sampling(max_new_tokens=most)
    lengths = [1 + number % 41 for number in range(count)]
    return [
        GenerationRequest(prompt=(5,) * length, sampling=sampling, stop_ids=frozenset({STOP})) for length in lengths
    ]


def test_of_many_requests_few_are_in_the_engine_and_greedy_ones_make_no_generator(
    model: CausalLM, engines: list[tuple[GenerationEngine, StubRunner]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        raise AssertionError("a greedy answer draws nothing")

    monkeypatch.setattr(torch, "Generator", refused)
    held: list[int] = []
    ended: list[int] = []

    def progress(count: int, under_way: float, made: str) -> None:
        stats = engines[0][0].stats()
        held.append(stats.running + stats.waiting)
        ended.append(count)

    answers = answer_all(model, asked(COUNT, most=2), on_progress=progress)
    assert [len(answer) for answer in answers] == [min(2, number % 5) for number in range(COUNT)]
    assert sum(ended) == COUNT
    assert REQUESTS_PER_ROW * BATCH_ROWS - BATCH_ROWS <= max(held) <= REQUESTS_PER_ROW * BATCH_ROWS


def test_every_answer_is_told_once_as_it_ends(model: CausalLM) -> None:
    told: dict[int, list[int]] = {}
    ended: list[int] = []

    def keep(row: int, tokens: list[int]) -> None:
        assert row not in told
        told[row] = list(tokens)

    answers = answer_all(
        model, asked(300, most=4), on_answer=keep, on_progress=lambda count, under_way, made: ended.append(len(told))
    )
    assert [told[row] for row in range(300)] == answers
    assert ended == sorted(ended)
    assert ended[0] < 300


def test_each_step_computes_what_it_would_with_all_requests_in_the_engine(
    model: CausalLM, engines: list[tuple[GenerationEngine, StubRunner]], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = answer_all(model, asked(300), batch_rows=8)
    monkeypatch.setattr(batch, "REQUESTS_PER_ROW", 300)
    assert answer_all(model, asked(300), batch_rows=8) == few
    (_, one), (_, other) = engines
    assert one.steps == other.steps


def test_stopping_ends_the_requests_that_the_engine_has_not_got_too(
    model: CausalLM, engines: list[tuple[GenerationEngine, StubRunner]]
) -> None:
    requests = asked(REQUESTS_PER_ROW * BATCH_ROWS + 50)
    results = whole_answers(model, requests, stop=lambda: len(engines[0][1].steps) == 3)
    assert {result.finished.reason for result in results[-50:]} == {FinishReason.CANCELLED}
    assert results[0].finished.reason is FinishReason.STOP
    assert [one.finished.prompt_tokens for one in results] == [len(one.prompt) for one in requests]


def test_a_request_that_cannot_be_carried_out_is_refused_before_any_is_begun(
    model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "REQUESTS_PER_ROW", 1)
    told: list[int] = []
    with pytest.raises(ConfigError, match="1000000"):
        generate(
            model,
            [[5], [6], [10**6]],
            sampling=Sampling(max_new_tokens=2),
            stop_ids=NONE,
            batch_rows=1,
            on_token=lambda row, token: told.append(token),
        )
    assert told == []


def test_after_the_last_random_stream_the_first_comes_again(model: CausalLM) -> None:
    drawn = Sampling(max_new_tokens=12, temperature=1.5)

    def answers(streams: list[int]) -> list[list[int]]:
        return generate(model, [[7, 8, 9]] * 2, sampling=drawn, stop_ids=NONE, streams=streams)

    first = answers([0, 4])
    assert first[0] != first[1]
    assert answers([STREAMS_PER_SEED, STREAMS_PER_SEED + 4]) == first
