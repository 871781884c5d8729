"""A cache changes nothing: prompts and then one token a step give the logits of the whole text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.models.tiny_models import (
    BACKENDS,
    documents,
    largest_difference,
    ours,
    packed_logits,
    tiny_llama,
    use_backend,
)
from veneer.model.cache import KVCache
from veneer.model.decoder import CausalLM


@pytest.fixture(autouse=True, params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    use_backend(request.param, monkeypatch)
    return str(request.param)


def prefill(model: CausalLM, cache: KVCache, prompts: list[list[int]]) -> Tensor:
    lengths = [len(prompt) for prompt in prompts]
    tokens = torch.tensor([token for prompt in prompts for token in prompt])
    positions = torch.cat([torch.arange(length) for length in lengths])
    hidden = model.hidden(tokens, positions, cache.prefill(lengths))
    return model.logits(hidden)


def step(model: CausalLM, cache: KVCache, tokens: list[int]) -> Tensor:
    positions = cache.lengths
    return model.logits(model.hidden(torch.tensor(tokens), positions, cache.step()))


@pytest.mark.parametrize(
    "changes", [{}, {"num_key_value_heads": 4}, {"num_key_value_heads": 1, "attention_bias": True}]
)
@pytest.mark.parametrize("lengths", [[1], [5, 5], [1, 17, 4, 16]])
def test_prompts_and_steps_equal_the_whole_text(lengths: list[int], changes: dict[str, int], tmp_path: Path) -> None:
    model = ours(tiny_llama(changes=changes), tmp_path)
    steps = 6
    texts = documents([length + steps for length in lengths])
    with torch.no_grad():
        whole = [packed_logits(model, [text]) for text in texts]
        cache = KVCache(model.spec, len(texts), max(lengths) + steps, dtype=torch.float32)
        prompts = [text[:length] for text, length in zip(texts, lengths, strict=True)]
        logits = prefill(model, cache, prompts).split(lengths)
        for row, length in enumerate(lengths):
            assert largest_difference(logits[row], whole[row][:length]) < 1e-5
        for made in range(steps):
            assert cache.lengths.tolist() == [length + made for length in lengths]
            logits = step(model, cache, [text[n + made] for text, n in zip(texts, lengths, strict=True)])
            for row, length in enumerate(lengths):
                assert largest_difference(logits[row], whole[row][length + made]) < 1e-5


def test_kept_rows_go_on_as_if_nothing_had_been_dropped(tmp_path: Path) -> None:
    model = ours(tiny_llama(), tmp_path)
    lengths = [4, 9, 2, 7]
    texts = documents([length + 5 for length in lengths])
    with torch.no_grad():
        whole = [packed_logits(model, [text]) for text in texts]
        cache = KVCache(model.spec, 4, 14, dtype=torch.float32)
        prefill(model, cache, [text[:length] for text, length in zip(texts, lengths, strict=True)])
        rows = [0, 1, 2, 3]
        for made in range(5):
            if made == 2:
                cache.keep(torch.tensor([3, 0, 2]))
                rows = [3, 0, 2]
            if made == 4:
                cache.keep(torch.tensor([1]))
                rows = [0]
            assert cache.lengths.tolist() == [lengths[row] + made for row in rows]
            logits = step(model, cache, [texts[row][lengths[row] + made] for row in rows])
            for slot, row in enumerate(rows):
                assert largest_difference(logits[slot], whole[row][lengths[row] + made]) < 1e-5
    assert cache.keys[0].shape[0] == 1


def test_a_row_is_not_changed_by_the_tokens_of_another(tmp_path: Path) -> None:
    model = ours(tiny_llama(), tmp_path)
    texts, others = documents([6, 9]), documents([6, 9], seed=1)

    def run(second: list[int], token: int) -> Tensor:
        cache = KVCache(model.spec, 2, 20, dtype=torch.float32)
        prefill(model, cache, [texts[0], second])
        return step(model, cache, [7, token])

    with torch.no_grad():
        before, after = run(texts[1], 8), run(others[1], 9)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_what_stands_behind_a_row_is_never_read(tmp_path: Path) -> None:
    """The cache's free columns may hold anything that is finite (here: of a longer neighbour's size)."""
    model = ours(tiny_llama(), tmp_path)
    texts = documents([3, 15])
    results = []
    with torch.no_grad():
        for filling in (0.0, 1e4):
            cache = KVCache(model.spec, 2, 17, dtype=torch.float32)
            for layer in (*cache.keys, *cache.values):
                layer.fill_(filling)
            prefill(model, cache, texts)
            results.append(step(model, cache, [5, 6]))
    assert torch.equal(*results)


def test_steps_in_bfloat16_are_as_exact_as_the_whole_text(tmp_path: Path) -> None:
    theirs = tiny_llama(seed=2)
    wide, narrow = ours(theirs, tmp_path), ours(theirs, tmp_path, dtype=torch.bfloat16)
    texts = documents([24, 24, 24])
    with torch.no_grad():
        exact = torch.stack([packed_logits(wide, [text]) for text in texts])
        whole = torch.stack([packed_logits(narrow, [text]) for text in texts])
        cache = KVCache(narrow.spec, 3, 24, dtype=torch.bfloat16)
        logits = [prefill(narrow, cache, [text[:1] for text in texts])]
        logits += [step(narrow, cache, [text[at] for text in texts]) for at in range(1, 24)]
    stepped = torch.stack(logits, dim=1)
    errors = [float((x.float() - exact).square().mean().sqrt()) for x in (stepped, whole)]
    assert errors[0] < 1.25 * errors[1]
