"""A token is drawn from its own row of logits as the settings say, checked against the plain formulas."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch

from veneer.errors import ConfigError, ModelError
from veneer.generation.sampling import Sampling, adjusted, choose, likeliest, probabilities


def draw(logits: list[float], count: int, sampling: Sampling) -> list[int]:
    row = torch.tensor(logits)
    return [choose(row, sampling, torch.Generator().manual_seed(seed)) for seed in range(count)]


def kept(probabilities: list[float], top_p: float) -> set[int]:
    """The smallest set of likeliest tokens whose probability reaches top_p."""
    chosen: set[int] = set()
    for index in sorted(range(len(probabilities)), key=lambda i: -probabilities[i]):
        chosen.add(index)
        if sum(probabilities[i] for i in chosen) >= top_p:
            break
    return chosen


@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.45, 0.8, 0.91, 0.98, 1.0])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float) -> None:
    probabilities = [0.05, 0.4, 0.02, 0.3, 0.2, 0.03]
    drawn = draw([float(x) for x in torch.tensor(probabilities).log()], 3000, Sampling(temperature=1.0, top_p=top_p))
    assert set(drawn) == kept(probabilities, top_p)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_top_p_keeps_no_token_beyond_those_that_hold_it_exactly(count: int) -> None:
    quarters = probabilities(torch.zeros(4), Sampling(temperature=1.0, top_p=count / 4))
    assert sorted(quarters.tolist(), reverse=True) == [1 / count] * count + [0.0] * (4 - count)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.75)])
def test_draws_follow_the_distribution(temperature: float, top_p: float) -> None:
    scores = torch.tensor([0.1, 1.4, -0.7, 0.9, 0.0])
    exact = torch.softmax(scores.double() / temperature, 0)
    allowed = kept(exact.tolist(), top_p)
    exact = torch.tensor([float(p) if i in allowed else 0.0 for i, p in enumerate(exact)], dtype=torch.float64)
    exact /= exact.sum()
    count = 6000
    drawn = draw(scores.tolist(), count, Sampling(temperature=temperature, top_p=top_p))
    shares = torch.bincount(torch.tensor(drawn), minlength=5).double() / count
    # Four standard errors of each share.
    assert bool(((shares - exact).abs() <= 4 * (exact * (1 - exact) / count).sqrt() + 1e-12).all())


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-45, 1e-300])
def test_a_small_temperature_is_greedy_and_finite(temperature: float) -> None:
    scores = [30.0, 29.0, -4.0, 29.5]
    assert set(draw(scores, 50, Sampling(temperature=temperature))) == {0}
    assert set(draw(scores, 50, Sampling(temperature=temperature, top_p=0.9))) == {0}


def test_a_large_temperature_is_uniform() -> None:
    assert set(draw([30.0, -30.0, 0.0], 400, Sampling(temperature=1e30))) == {0, 1, 2}


def test_bfloat16_scores_are_drawn_in_float32() -> None:
    row, sampling = torch.zeros(4, dtype=torch.bfloat16), Sampling(temperature=1.0)
    scores = adjusted(row, sampling, [1], [])
    assert scores.dtype == torch.float32
    assert {choose(scores, sampling, torch.Generator().manual_seed(seed)) for seed in range(500)} == {0, 1, 2, 3}


@pytest.mark.parametrize("whole", [np.int64, np.int32, np.uint8])
def test_numbers_of_numpy_are_those_of_python(whole: type[np.integer[Any]]) -> None:
    """NumPy's own overflow where a seed is multiplied, and are no seed of torch's."""
    given = Sampling(
        seed=whole(5),  # type: ignore[arg-type]
        top_k=whole(3),  # type: ignore[arg-type]
        temperature=np.float32(0.5),  # type: ignore[arg-type]
        logit_bias={whole(2): np.float64(1.5)},  # type: ignore[dict-item]
    )
    assert given == Sampling(seed=5, top_k=3, temperature=0.5, logit_bias={2: 1.5})
    numbers = [given.seed, given.top_k, given.temperature, *given.logit_bias, *given.logit_bias.values()]
    assert [type(one) for one in numbers] == [int, int, float, int, float]


def test_settings_out_of_range_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        Sampling(max_new_tokens=0, temperature=-0.5, top_p=0.0, seed=-1)
    for words in ("max_new_tokens: 0", "temperature: -0.5", "top_p: 0.0", "seed: -1"):
        assert words in str(caught.value)


@pytest.mark.parametrize("temperature", [float("nan"), float("inf"), -1e-9])
def test_bad_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        Sampling(temperature=temperature)


@pytest.mark.parametrize("top_p", [float("nan"), 1.0001, -0.1])
def test_bad_top_p_is_refused(top_p: float) -> None:
    with pytest.raises(ConfigError, match="top_p"):
        Sampling(top_p=top_p)


@pytest.mark.parametrize("seed", [2**31, 10**30])
def test_seeds_of_more_than_31_bits_are_refused(seed: int) -> None:
    with pytest.raises(ConfigError, match="seed"):
        Sampling(seed=seed)
    generate_with = Sampling(seed=2**31 - 1)
    assert generate_with.seed * 1_000_003 < 2**63


def test_settings_of_draws_out_of_range_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        Sampling(top_k=-1, min_p=2.0, presence_penalty=3.0, frequency_penalty=-2.5, repetition_penalty=0.0,
                 logit_bias={3: 101.0, -1: 0.0}, min_new_tokens=300)  # fmt: skip
    for words in ("top_k: -1", "min_p: 2.0", "presence_penalty: 3.0", "frequency_penalty: -2.5", "token 3", "token -1",
                  "repetition_penalty: 0.0", "min_new_tokens: 300"):  # fmt: skip
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match="17"):
        Sampling(logit_bias={3: 1.0, 17: 1.0}).check_vocabulary(17)
    Sampling(logit_bias={16: -100.0}).check_vocabulary(17)


def slowly_adjusted(logits: list[float], sampling: Sampling, prompt: list[int], answer: list[int]) -> list[float]:
    """Token by token, as the papers and OpenAI's documentation have it."""
    found = []
    for token, logit in enumerate(logits):
        score = logit + sampling.logit_bias.get(token, 0.0)
        if token in prompt or token in answer:
            score = score / sampling.repetition_penalty if score > 0 else score * sampling.repetition_penalty
        if token in answer:
            score -= sampling.presence_penalty + answer.count(token) * sampling.frequency_penalty
        found.append(score)
    return found


def test_biases_and_penalties_are_those_of_the_formulas() -> None:
    source = random.Random(5)
    for _ in range(200):
        vocab = source.randint(2, 30)
        logits = [source.gauss(0, 3) for _ in range(vocab)]
        prompt, answer = ([source.randrange(vocab) for _ in range(source.randint(0, 12))] for _ in range(2))
        sampling = Sampling(
            logit_bias={source.randrange(vocab): source.uniform(-100, 100) for _ in range(source.randint(0, 4))},
            repetition_penalty=source.choice([1.0, 0.7, 1.3]),
            presence_penalty=source.choice([0.0, 1.5, -2.0]),
            frequency_penalty=source.choice([0.0, 0.25, -0.5]),
        )
        row = torch.tensor(logits)
        before = row.clone()
        found = adjusted(row, sampling, prompt, answer)
        assert torch.allclose(found, torch.tensor(slowly_adjusted(logits, sampling, prompt, answer)), atol=1e-5)
        assert torch.equal(row, before)


def test_filters_keep_what_their_definitions_say() -> None:
    source = random.Random(6)
    for _ in range(200):
        vocab = source.randint(2, 40)
        scores = torch.tensor([source.gauss(0, 2) for _ in range(vocab)])
        sampling = Sampling(
            temperature=source.choice([0.5, 1.0, 2.0]),
            top_k=source.choice([0, 1, 3, 100]),
            top_p=source.choice([1.0, 0.9, 0.4]),
            min_p=source.choice([0.0, 0.1, 0.6]),
        )
        exact = [math.exp(float(score) / sampling.temperature) for score in scores]
        ranked = sorted(range(vocab), key=lambda token: -exact[token])[: sampling.top_k or None]
        exact = [p if token in ranked else 0.0 for token, p in enumerate(exact)]
        exact = [p / sum(exact) for p in exact]
        nucleus = kept(exact, sampling.top_p) if sampling.top_p < 1 else set(ranked)
        largest = max(exact)
        exact = [p if t in nucleus and p >= sampling.min_p * largest else 0.0 for t, p in enumerate(exact)]
        expected = torch.tensor([p / sum(exact) for p in exact], dtype=torch.float64)
        assert torch.allclose(probabilities(scores, sampling), expected, atol=1e-6)


def test_many_tokens_are_ranked_as_few_are() -> None:
    """Above `FEW` tokens only the likeliest are sorted, unless they hold too little."""
    generator = torch.Generator().manual_seed(3)
    for spread in (0.01, 4.0):
        scores = spread * torch.randn(5000, generator=generator)
        found = probabilities(scores, Sampling(temperature=1.0, top_p=0.9))
        whole = torch.softmax(scores.double(), -1)
        ordered, indices = whole.sort(descending=True)
        nucleus = indices[: int((ordered.cumsum(-1) < 0.9).sum()) + 1]
        assert set(found.nonzero()[:, 0].tolist()) == set(nucleus.tolist())


def test_a_token_without_probability_is_never_drawn() -> None:
    scores = torch.tensor([-math.inf, 0.0, -math.inf, 0.0, -math.inf])
    sampling = Sampling(temperature=1.0)
    drawn = {choose(scores, sampling, torch.Generator().manual_seed(seed)) for seed in range(400)}
    assert drawn == {1, 3}


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-53])
def test_a_number_on_the_edge_of_tokens_draws_one_that_has_a_probability(
    number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "rand", lambda *shape, **how: torch.tensor(number, dtype=torch.float64))
    scores = torch.tensor([-math.inf, 0.0, -math.inf, 0.0, -math.inf])
    token = choose(scores, Sampling(temperature=1.0), torch.Generator())
    assert token == (1 if number < 0.5 else 3)


@pytest.mark.parametrize("filters", [{}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.5}])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_nothing_is_drawn_from_logits_that_are_not_finite(broken: float, filters: dict[str, float]) -> None:
    """As transformers' `generate`, which raises "probability tensor contains either `inf`, `nan` or element < 0"."""
    sampling = Sampling(temperature=1.0, **filters)  # type: ignore[arg-type]
    for scores, count in ((torch.full((10,), broken), 10), (torch.tensor([0.0, 1.0, broken, 2.0]), 1)):
        with pytest.raises(ModelError, match=f"NaN or infinite for {count} of {len(scores)} tokens"):
            choose(scores, sampling, torch.Generator())


def test_nothing_is_drawn_where_every_token_is_forbidden() -> None:
    with pytest.raises(ConfigError, match="no token may come next"):
        choose(torch.full((10,), -math.inf), Sampling(temperature=1.0), torch.Generator())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_likeliest_token_is_the_first_of_the_largest(dtype: torch.dtype) -> None:
    scores = torch.randn(4, 1000, dtype=dtype)
    scores[1, [17, 40, 900]] = 9.0
    scores[2] = -torch.inf
    scores[2, 3] = -1e30
    scores[3, [5, 9]] = torch.nan  # as torch has it, so that what is broken is seen
    assert likeliest(scores) == [int(scores[0].argmax()), 17, 3, 5]
