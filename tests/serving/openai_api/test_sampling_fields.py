"""The sampling of a request: OpenAI's defaults, and what is out of range or not honoured."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from veneer.generation.sampling import probabilities
from veneer.http_server.errors import ApiError
from veneer.http_server.fields import Fields
from veneer.serving.openai_api.sampling_fields import NEUTRAL_VALUES, SamplingFields, read_sampling
from veneer.serving.prompts import PromptEncoder
from veneer.serving.service import Service


def read(max_tokens: int | None = None, **values: Any) -> SamplingFields:
    return read_sampling(
        Fields(values), context=100, vocab_size=50, choices=8, stop_ids=frozenset({2}), max_tokens=max_tokens
    )


def test_what_is_left_out_has_openais_defaults() -> None:
    found = read()
    assert (found.n, found.stop, found.stop_ids, found.sampling.temperature) == (1, (), None, 1.0)
    assert (found.sampling.top_p, found.sampling.top_k, found.sampling.min_p) == (1.0, 0, 0.0)
    assert len({read().seed for _ in range(5)}) > 1, "without a seed the draws are other ones each time"
    assert read(seed=7).seed == 7
    assert read(top_k=-1).sampling.top_k == 0


def test_stops_are_texts_and_tokens_beside_the_models_own() -> None:
    assert read(stop="a").stop == ("a",)
    assert read(stop=["a", "b"]).stop == ("a", "b")
    assert read(stop_token_ids=[5]).stop_ids == {2, 5}
    assert read(ignore_eos=True).stop_ids == frozenset()
    assert read(ignore_eos=True, stop_token_ids=[5]).stop_ids == {5}


@pytest.mark.parametrize(
    "values",
    [
        {"n": 9}, {"n": 0}, {"n": 10**6}, {"temperature": 2.1}, {"temperature": float("nan")}, {"top_p": -1},
        {"min_p": -1}, {"seed": -(2**63) - 1}, {"seed": 2**63}, {"presence_penalty": 3}, {"repetition_penalty": 0},
        {"stop": [""]}, {"stop": ["a"] * 17}, {"stop": ["a" * 1025]}, {"stop": [1]}, {"stop_token_ids": [50]},
        {"stop_token_ids": [True]}, {"logit_bias": {"50": 1}}, {"logit_bias": {"x": 1}}, {"logit_bias": {"1": 101}},
        {"logit_bias": {"1": True}}, {"logit_bias": []}, {"min_tokens": 101},
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_400_and_names_the_field(values: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as refused:
        read(**values)
    assert refused.value.status == 400
    assert refused.value.param == next(iter(values))


@pytest.mark.parametrize(
    ("stop", "fault"),
    [
        ("", "a string of 0 characters; each must have 1 to 1,024"),
        (["a", "b" * 1025], "a string of 1,025 characters; each must have 1 to 1,024"),
        (["a"] * 17, "17 strings; at most 16 are accepted"),
    ],
)
def test_the_fault_of_a_stop_is_the_one_that_is_said(stop: object, fault: str) -> None:
    with pytest.raises(ApiError, match=f"^stop: {fault}"):
        read(stop=stop)


def test_what_is_not_honoured_is_refused_unless_it_changes_nothing() -> None:
    for name, values in NEUTRAL_VALUES.items():
        for value in (None, *values):
            read(**{name: value})
        with pytest.raises(ApiError, match=name):
            read(**{name: "something else"})


def test_the_best_of_as_many_as_are_wanted_changes_nothing() -> None:
    assert read(n=2, best_of=2).n == 2
    assert read(best_of=1).n == read(best_of=None).n == 1
    for values in ({"n": 2, "best_of": 3}, {"n": 2, "best_of": 1}, {"best_of": 2}):
        with pytest.raises(ApiError, match="best_of is not supported"):
            read(**values)


def test_every_integer_of_64_bits_is_a_seed_of_its_own(service: Service) -> None:
    def seeds(first: int, n: int = 1) -> list[int]:
        asked = read(seed=first, n=n).requests((3, 4), None, service.prompts, param="prompt")
        return [one.sampling.seed for one in asked]

    wide = [-(2**63), -1, 2**31, 2**32, 2**33, 2**63 - 1]
    assert len({*(seeds(seed)[0] for seed in wide), 0, 1, 2**31 - 1}) == len(wide) + 3
    assert seeds(-1) == seeds(-1)
    assert seeds(-2, n=4) == [*seeds(-2), *seeds(-1), 0, 1], "the n answers have the seeds seed, seed + 1, …"
    assert len(set(seeds(2**63 - 1, n=2))) == 2


def test_a_top_p_of_0_leaves_the_likeliest_token_alone() -> None:
    scores = torch.tensor([0.0, 0.1, 0.05])
    assert probabilities(scores, read(top_p=0).sampling).tolist() == [0.0, 1.0, 0.0]


def test_each_answer_has_its_own_seed_and_the_context_its_end(service: Service) -> None:
    prompts: PromptEncoder = service.prompts
    prompt = tuple(range(3, 13))
    found = read(n=3, seed=2**31 - 3, max_tokens=5).requests(prompt, "a", prompts, param="prompt")
    assert [one.sampling.seed for one in found] == [2**31 - 3, 2**31 - 2, 2**31 - 1]
    assert {(one.adapter, one.sampling.max_new_tokens) for one in found} == {("a", 5)}
    [whole] = read().requests(prompt, None, prompts, param="prompt")
    assert whole.sampling.max_new_tokens == prompts.context - 10
    with pytest.raises(ApiError) as refused:
        read(max_tokens=prompts.context).requests(prompt, None, prompts, param="prompt")
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(ApiError, match="min_tokens"):
        read(max_tokens=5, min_tokens=6).requests(prompt, None, prompts, param="prompt")
