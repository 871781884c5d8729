"""The tokens of prompts that a step takes, from what steps have taken."""

from __future__ import annotations

import random

import pytest

from veneer.generation.prompt_budget import LEAST_PROMPT_TOKENS, PromptBudget
from veneer.generation.scheduler import Limits


def fitted(each_prompt: float, each_next: float, next_tokens: int, *, most: int = 256, steps: int = 12) -> PromptBudget:
    """A budget after steps that take so many seconds a token; every third one has no prompt."""
    budget, noise = PromptBudget(Limits(prompt_tokens=most)), random.Random(1)
    for step in range(steps):
        prompts = 0 if step % 3 == 0 else budget.tokens
        seconds = (each_prompt * prompts + each_next * next_tokens) * noise.uniform(0.98, 1.02)
        budget.computed(prompts, next_tokens, seconds)
    return budget


def test_next_tokens_beside_a_prompt_leave_it_its_time() -> None:
    # 24 next tokens of 3 ms each: judged by all tokens alike, a prompt of 0.7 ms a token got 85 tokens.
    assert fitted(0.0007, 0.003, 24).tokens == 256


@pytest.mark.parametrize("next_tokens", [0, 1, 24, 60])
@pytest.mark.parametrize("each_prompt", [0.002, 0.004, 0.01])
def test_prompts_take_no_longer_than_they_may(each_prompt: float, next_tokens: int) -> None:
    found = fitted(each_prompt, 0.003, next_tokens).tokens * each_prompt
    assert 0.85 * 0.25 < found < 1.15 * 0.25


def test_a_slow_machine_takes_the_fewest_and_no_limit_takes_the_most() -> None:
    assert fitted(0.1, 0.05, 8).tokens == LEAST_PROMPT_TOKENS
    unlimited = PromptBudget(Limits(prompt_tokens=300, prompt_seconds=None))
    unlimited.computed(300, 4, 100.0)
    assert unlimited.tokens == 300


def test_few_tokens_of_prompts_tell_nothing() -> None:
    budget = fitted(0.002, 0.003, 24)
    before = budget.tokens
    budget.computed(LEAST_PROMPT_TOKENS - 1, 24, 9.0)
    assert budget.tokens == before


def test_fewer_next_tokens_than_in_the_step_without_prompts_are_counted_as_fewer() -> None:
    budget = PromptBudget(Limits())
    budget.computed(0, 60, 0.2)
    # All but one have ended: the whole second is the prompt's.
    budget.computed(100, 1, 1.0)
    assert budget.tokens == pytest.approx(25, abs=1)
