"""What becomes of sampled answers: numbers for other processes, and what rewards are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from veneer.data.forms.prompts import to_prompt
from veneer.io.tokenizer import from_directory
from veneer.training.rollouts.answers import SampledAnswer, as_numbers, from_numbers, to_judge


def test_answers_come_back_from_their_numbers(tiny_model: Path) -> None:
    tokenizer = from_directory(tiny_model)
    answers = [
        SampledAnswer(tokens=(5, 6, 2), text=tokenizer.decode([5, 6]), logprobs=np.array([-1.5, -0.1, np.nan]),
                      truncated=False),
        SampledAnswer(tokens=(2,), text="", logprobs=np.array([np.nan]), truncated=False),
        SampledAnswer(tokens=(7, 8), text=tokenizer.decode([7, 8]), logprobs=np.array([-0.2, -0.3]), truncated=True),
    ]  # fmt: skip
    again = from_numbers(as_numbers(answers), 3, tokenizer)
    for one, other in zip(again, answers, strict=True):
        assert (one.tokens, one.text, one.truncated) == (other.tokens, other.text, other.truncated)
        assert one.logprobs.tobytes() == other.logprobs.tobytes()


def test_rewards_get_the_row_of_each_answer() -> None:
    rows = [to_prompt({"prompt": "a", "level": 1}, "f:1"), to_prompt({"prompt": "b", "level": 2}, "f:2")]
    answers = [
        SampledAnswer(tokens=(number,), text=str(number), logprobs=np.zeros(1), truncated=False) for number in range(4)
    ]
    found = to_judge(rows, answers, 2)
    assert [(one.where, one.number, one.text, one.columns["level"]) for one in found] == [
        ("f:1", 0, "0", 1), ("f:1", 1, "1", 1), ("f:2", 0, "2", 2), ("f:2", 1, "3", 2),
    ]  # fmt: skip
