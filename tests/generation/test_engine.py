"""What the engine promises of one request, whatever else is there: events, ends, errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from helpers.models.tiny import write_model
from helpers.models.tiny_models import BACKENDS, documents, ours, packed_logits, tiny, tiny_llama, use_backend
from helpers.servers.served import FixedAdapters
from veneer.errors import ConfigError, ModelError
from veneer.generation.batch import generate
from veneer.generation.build import build_engine
from veneer.generation.cohort import SCORED_TOKENS
from veneer.generation.engine import GenerationEngine
from veneer.generation.request import (
    FinishReason,
    GenerationHandle,
    GenerationRequest,
    GenerationResult,
    PromptScored,
    TokenMade,
    gathered,
)
from veneer.generation.sampling import Sampling
from veneer.generation.scheduler import Limits
from veneer.io.checkpoint import open_checkpoint
from veneer.io.tokenizer import Tokenizer
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM

NONE: frozenset[int] = frozenset()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), seed=3)


@pytest.fixture(scope="module")
def model(folder: Path) -> CausalLM:
    found = load_model(open_checkpoint(folder), Loading(dtype=torch.float32))
    found.eval()
    return found


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return open_checkpoint(folder).tokenizer()


def finished(engine: GenerationEngine, *handles: GenerationHandle) -> list[GenerationResult]:
    """The answers, once the engine has nothing to do."""
    while engine.step():
        pass
    return [gathered(iter(handle.ready())) for handle in handles]


def request(prompt: list[int], most: int = 8, **settings: object) -> GenerationRequest:
    sampling = Sampling(max_new_tokens=most, **settings.pop("sampling", {}))  # type: ignore[arg-type]
    return GenerationRequest(prompt=tuple(prompt), sampling=sampling, **settings)  # type: ignore[arg-type]


def test_requests_that_join_at_any_step_get_what_they_get_alone(model: CausalLM) -> None:
    prompts = documents([5, 1, 12, 9, 5, 3, 30], vocab=model.spec.vocab_size)
    alone = [generate(model, [prompt], sampling=Sampling(max_new_tokens=8), stop_ids=NONE)[0] for prompt in prompts]
    engine, handles = build_engine(model), []
    for prompt in prompts:
        handles.append(engine.submit(request(prompt)))
        engine.step()
        engine.step()
    results = finished(engine, *handles)
    assert [list(result.tokens) for result in results] == alone
    assert {result.finished.reason for result in results} == {FinishReason.LENGTH}
    assert engine.idle
    assert engine.stats().running == engine.stats().waiting == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [1, 11, SCORED_TOKENS + 44])
def test_log_probabilities_are_those_of_the_whole_text(
    length: int, backend: str, model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_backend(backend, monkeypatch)
    [prompt] = documents([length], vocab=model.spec.vocab_size)
    engine = build_engine(model)
    [result] = finished(engine, engine.submit(request(prompt, logprobs=3, prompt_logprobs=2)))
    text = prompt + list(result.tokens)
    with torch.no_grad():
        scores = torch.log_softmax(packed_logits(model, [text]).double(), -1)
    assert result.prompt_logprobs[0] is None
    for place, found in enumerate([*result.prompt_logprobs[1:], *result.logprobs], 1):
        assert found is not None
        assert found.token == text[place]
        assert found.logprob == pytest.approx(float(scores[place - 1, text[place]]), abs=1e-4)
        assert len(found.top) == (2 if place < len(prompt) else 3)
        assert found.top[0][1] == pytest.approx(float(scores[place - 1].max()), abs=1e-4)


def test_stop_strings_span_tokens_and_are_no_part_of_the_text(model: CausalLM, tokenizer: Tokenizer) -> None:
    [prompt] = documents([6], vocab=model.spec.vocab_size)
    engine = build_engine(model, decoder=tokenizer)
    [free] = finished(engine, engine.submit(request(prompt, 30, sampling={"temperature": 1.0})))
    assert free.text == tokenizer.decode(list(free.tokens))
    stop = free.text[len(free.text) // 2 :][:3]
    [cut] = finished(engine, engine.submit(request(prompt, 30, sampling={"temperature": 1.0}, stop=(stop, "never"))))
    assert cut.finished.reason is FinishReason.STOP
    assert cut.finished.stop == stop
    assert cut.text == free.text[: free.text.index(stop)]
    assert list(cut.tokens) == list(free.tokens[: len(cut.tokens)])


def test_stop_tokens_end_an_answer_unless_they_are_ignored(model: CausalLM) -> None:
    [prompt] = documents([6], vocab=model.spec.vocab_size)
    [free] = generate(model, [prompt], sampling=Sampling(max_new_tokens=9), stop_ids=NONE)
    engine = build_engine(model, stop_ids=frozenset({free[4]}))
    own = request(prompt, 9, stop_ids=frozenset({free[2]}))
    held = request(prompt, 9, sampling={"min_new_tokens": 9})
    results = finished(engine, *map(engine.submit, (request(prompt, 9), own, request(prompt, 9, stop_ids=NONE), held)))
    assert list(results[0].tokens) == free[: free.index(free[4])]
    assert results[0].finished.stop == free[4]
    assert list(results[1].tokens) == free[: free.index(free[2])]
    assert list(results[2].tokens) == free
    assert len(results[3].tokens) == 9
    assert free[4] not in results[3].tokens


@pytest.mark.parametrize("strange", [-1, 300, 99_999])
def test_ends_that_the_model_has_no_token_for_change_nothing(strange: int, model: CausalLM) -> None:
    """Files name such ids. A held answer's logits have no place for them, and -1 would be the last token's."""
    assert model.spec.vocab_size <= 300
    [prompt] = documents([6], vocab=model.spec.vocab_size)
    sampling = {"min_new_tokens": 4, "temperature": 1.5}
    end = frozenset({7})
    expected, default, own = (
        finished(engine, engine.submit(asked))[0].tokens
        for engine, asked in (
            (build_engine(model, stop_ids=end), request(prompt, 30, sampling=sampling)),
            (build_engine(model, stop_ids=end | {strange}), request(prompt, 30, sampling=sampling)),
            (build_engine(model), request(prompt, 30, sampling=sampling, stop_ids=end | {strange})),
        )
    )
    assert default == own == expected


def test_a_request_draws_from_its_own_seed(model: CausalLM) -> None:
    [prompt, other] = documents([6, 9], vocab=model.spec.vocab_size)
    drawn = {"temperature": 1.2, "top_k": 50, "min_p": 0.01}
    engine = build_engine(model)
    [alone] = finished(engine, engine.submit(request(prompt, sampling={**drawn, "seed": 5})))
    handles = [
        engine.submit(request(p, sampling={**drawn, "seed": s})) for p, s in ((other, 5), (prompt, 5), (prompt, 6))
    ]
    _, again, third = finished(engine, *handles)
    assert again.tokens == alone.tokens
    assert third.tokens != alone.tokens


def test_a_constraint_decides_what_may_come(model: CausalLM) -> None:
    class Even:
        def __init__(self) -> None:
            self.taken: list[int] = []

        def restrict(self, scores: torch.Tensor) -> None:
            scores[1::2] = float("-inf")

        def accept(self, token: int) -> None:
            self.taken.append(token)

    rule = Even()
    engine = build_engine(model)
    [result] = finished(engine, engine.submit(request([5, 6, 7], 12, constraint=rule)))
    assert rule.taken == list(result.tokens)
    assert all(token % 2 == 0 for token in result.tokens)


def test_a_draw_from_logits_that_are_not_finite_ends_its_request_alone(tmp_path: Path) -> None:
    model = ours(tiny_llama(), tmp_path)
    with torch.no_grad():
        model.embedding.weight[7] = float("nan")
    engine, drawn = build_engine(model), {"temperature": 1.0}
    [alone] = finished(engine, engine.submit(request([5, 6], sampling=drawn)))
    handles = [engine.submit(request(prompt, sampling=drawn)) for prompt in ([5, 7], [5, 6])]
    broken, whole = finished(engine, *handles)
    assert len(alone.tokens) == 8
    assert broken.finished.reason is FinishReason.ERROR
    assert broken.finished.error is not None
    assert "logits are NaN or infinite" in broken.finished.error
    assert not broken.finished.refused
    assert broken.tokens == ()
    assert whole.tokens == alone.tokens
    with pytest.raises(ModelError, match="prompt 2: the model's logits are NaN"):
        generate(model, [[5, 6], [5, 7]], sampling=Sampling(max_new_tokens=4, temperature=1.0), stop_ids=NONE)


@pytest.mark.parametrize("scored", [{"logprobs": 0}, {"prompt_logprobs": 2}])
def test_logits_that_are_not_finite_score_nothing_and_end_their_request_alone(
    tmp_path: Path, scored: dict[str, int]
) -> None:
    model = ours(tiny_llama(), tmp_path)
    with torch.no_grad():
        model.embedding.weight[7] = float("nan")
    engine = build_engine(model)
    handles = [engine.submit(request(prompt, **scored)) for prompt in ([5, 7, 6], [5, 6])]
    broken, whole = finished(engine, *handles)
    assert broken.finished.reason is FinishReason.ERROR
    assert not broken.finished.refused
    assert broken.finished.error is not None
    assert "logits are NaN or infinite" in broken.finished.error
    assert len(whole.tokens) == 8


def test_cancelled_requests_end_before_the_next_step(model: CausalLM) -> None:
    engine = build_engine(model)
    handle, other = engine.submit(request([5, 6], 50)), engine.submit(request([7], 4))
    engine.step()
    engine.step()
    handle.cancel()
    cut, whole = finished(engine, handle, other)
    assert cut.finished.reason is FinishReason.CANCELLED
    assert 1 <= len(cut.tokens) <= 2
    assert len(whole.tokens) == 4
    third = engine.submit(request([5]))
    engine.close()
    assert gathered(iter(third.ready())).finished.reason is FinishReason.CANCELLED


def test_events_come_in_order_and_are_told_at_once(model: CausalLM) -> None:
    engine, told = build_engine(model), []
    engine.submit(request([5, 6], 3, prompt_logprobs=0), on_event=told.append)
    finished(engine)
    assert [type(event).__name__ for event in told] == ["PromptScored", *["TokenMade"] * 3, "Finished"]
    assert isinstance(told[0], PromptScored)
    assert all(isinstance(event, TokenMade) and event.text == "" for event in told[1:4])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"most": 513}, "512"),
        ({"prompt": [5, 10**6]}, "1000000"),
        ({"stop": ("x",)}, "tokenizer"),
        ({"adapter": "crane"}, "'crane'"),
        ({"sampling": {"logit_bias": {10**5: 1.0}}}, "100000"),
        ({"prompt": [5] * 400, "most": 400}, "cache"),
    ],
)
def test_what_can_never_be_carried_out_is_refused_at_once(
    changes: dict[str, object], words: str, model: CausalLM
) -> None:
    engine = build_engine(model, cache_bytes=model.row_bytes(512))
    with pytest.raises(ConfigError, match=words):
        engine.submit(request(**{"prompt": [5], **changes}))  # type: ignore[arg-type]
    assert engine.idle


def test_a_prompt_is_looked_at_once_for_its_answers_and_copied_when_they_are_admitted(model: CausalLM) -> None:
    walks = 0

    class Watched(tuple[int, ...]):
        def __iter__(self) -> Iterator[int]:
            nonlocal walks
            walks += 1
            return super().__iter__()

    prompt, engine = Watched([5, 6, 7]), build_engine(model)
    requests = [GenerationRequest(prompt=prompt, sampling=Sampling(max_new_tokens=4, seed=seed)) for seed in range(8)]
    for one in requests:
        engine.check(one)
    handles = [engine.submit(one) for one in requests]
    assert walks == 1
    assert [len(result.tokens) for result in finished(engine, *handles)] == [4] * 8
    assert walks == 9


def test_an_answer_that_may_be_cut_ends_where_the_cache_does_for_its_adapter(tmp_path: Path) -> None:
    """A batch of its own keeps all tokens where blocks keep a layer's window, which is known once the adapter is."""
    model = ours(tiny("mistral", changes={"sliding_window": 8}), tmp_path)
    engine = build_engine(
        model,
        adapters=FixedAdapters({"apart": model}),
        cache_bytes=model.row_bytes(64),
        limits=Limits(prompt_tokens=16, block_tokens=4),
    )
    assert engine.longest == 256
    asked = [request([5] * 10, 100, cut_to_cache=True, adapter=name) for name in (None, "apart")]
    whole, cut = finished(engine, *(engine.submit(one) for one in asked))
    assert (len(whole.tokens), len(cut.tokens)) == (100, 54)
    assert cut.finished.reason is FinishReason.LENGTH
    assert cut.tokens == whole.tokens[:54]
    for settings in ({}, {"cut_to_cache": True, "sampling": {"min_new_tokens": 60}}):
        [refused] = finished(engine, engine.submit(request([5] * 10, 100, adapter="apart", **settings)))
        assert refused.finished.refused
        assert "of cache" in str(refused.finished.error)
