"""The memory of sampling: nothing where nothing is sampled, more for more and longer answers, bounded by the cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from helpers.training.plan_setups import setup
from veneer.adapters.spec import LoraSpec
from veneer.enums import Method, ObjectiveName, Variant
from veneer.generation.build import CACHE_BYTES
from veneer.planning.base import decoded_bytes
from veneer.planning.batch_shape import BatchShape
from veneer.planning.memory import memory
from veneer.planning.sampling import decoded_for_answers, reference_bytes, sampling_bytes, through_modules

SHAPE = BatchShape(tokens=512, longest=128, supervised=256, sampled=16)


def test_a_run_that_samples_nothing_has_no_such_phase() -> None:
    found = memory(setup(), replace(SHAPE, sampled=0), recompute=False, start=0)
    assert found.sampling == found.reference == 0
    assert "sampling" not in found.phases


def test_the_cache_holds_all_answers_until_its_budget_is_full() -> None:
    one, two = (sampling_bytes(setup(), replace(SHAPE, sampled=count)) for count in (16, 32))
    assert two - one >= 16 * 128 * setup().spec.token_bytes(torch.bfloat16)
    huge = replace(SHAPE, sampled=10**6, longest=10**4)
    assert sampling_bytes(setup(), huge) < 1.2 * CACHE_BYTES + 10**9


def test_what_the_compiled_library_does_not_know_takes_copies_and_decoded_weights() -> None:
    head = setup(lora=LoraSpec(rank=4, alpha=8.0, target_modules=("q_proj", "lm_head")))
    assert through_modules(head)
    assert not through_modules(setup())
    assert not through_modules(setup(lora=LoraSpec(rank=4, alpha=8.0, variant=Variant.DORA)))
    assert sampling_bytes(head, SHAPE) > sampling_bytes(setup(), SHAPE)
    quantised = replace(head, method=Method.QLORA)
    assert sampling_bytes(quantised, SHAPE) > sampling_bytes(head, SHAPE)


def test_packed_weights_are_decoded_for_answers_where_they_are_few_enough() -> None:
    quantised = setup(method=Method.QLORA)
    assert 0 < decoded_for_answers(quantised) == decoded_bytes(quantised)
    wide = replace(quantised, spec=replace(quantised.spec, intermediate_size=2**20, hidden_size=2**10))
    assert decoded_for_answers(wide) == 0 < decoded_bytes(wide)


def test_a_reward_model_takes_its_adapter_and_a_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veneer.planning.memory.torch_multiplies", lambda dtype: True)  # else all widen as much
    judge = setup(lora=LoraSpec(rank=4, alpha=8.0), objective=ObjectiveName.REWARD)
    plain, more = (memory(one, SHAPE, recompute=False, start=0) for one in (setup(), setup(reward_models=(judge,))))
    assert more.adapters - plain.adapters == 4 * judge.adapter_weights
    assert more.base == plain.base
    assert "scoring" not in plain.phases
    long = memory(setup(reward_models=(judge,)), replace(SHAPE, longest=5000), recompute=False, start=0)
    assert 0 < 4 * more.scoring < long.scoring, "a text alone may be longer than a micro-batch of scoring"


def test_a_reference_that_is_the_start_is_two_copies_of_what_is_trained() -> None:
    copied = setup(reference_copied=True)
    assert reference_bytes(copied) == 8 * copied.trained_weights
    plain, more = (memory(one, SHAPE, recompute=False, start=0) for one in (setup(), copied))
    assert more.peak - plain.peak == pytest.approx(8 * copied.trained_weights)
