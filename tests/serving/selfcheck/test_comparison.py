"""When two answers count as equal."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from veneer.serving.selfcheck.comparison import Exactness, compare, streamed_answer, whole_answer

ANSWER: dict[str, Any] = {
    "text": "a b",
    "tokens": ["a", " b"],
    "token_logprobs": [-0.5, -1.0],
    "top_logprobs": [{"a": -0.5, "x": -2.0}, {" b": -1.0, "y": -1.5}],
    "finish_reason": "length",
}


def changed(**fields: Any) -> dict[str, Any]:
    return {**copy.deepcopy(ANSWER), **fields}


@pytest.mark.parametrize(
    "other",
    [
        {"text": "a c"},
        {"token_logprobs": [-0.5, -1.0000001]},
        {"top_logprobs": [{"a": -0.5, "x": -2.0}, {" b": -1.0, "y": -1.4}]},
        {"finish_reason": "stop"},
        {"tokens": ["a"]},
    ],
)
def test_bit_for_bit_everything_counts(other: dict[str, Any]) -> None:
    assert compare(ANSWER, changed(), Exactness.BITWISE).problem is None
    assert next(iter(other)) in str(compare(changed(**other), ANSWER, Exactness.BITWISE).problem)


def test_within_rounding_log_probabilities_may_differ_a_little() -> None:
    near = changed(token_logprobs=[-0.5 + 3e-6, -1.0])
    found = compare(near, ANSWER, Exactness.ROUNDED)
    assert found.problem is None
    assert found.largest == pytest.approx(3e-6)
    assert compare(changed(token_logprobs=[-0.5, -1.0001]), ANSWER, Exactness.ROUNDED).problem is not None
    assert compare(changed(tokens=["a"]), ANSWER, Exactness.ROUNDED).problem is not None


def test_another_token_is_rounding_only_where_the_likeliest_are_equally_likely() -> None:
    """A tie may be broken either way; an answer from another adapter has other likelihoods there."""
    tied = changed(top_logprobs=[{"a": -0.5, "x": -0.5}, None])
    other = changed(tokens=["x", " z"], top_logprobs=[{"x": -0.5, "a": -0.500002}, {" z": -9.0}])
    assert compare(other, tied, Exactness.ROUNDED).problem is None
    mixed = changed(tokens=["x", " z"], top_logprobs=[{"x": -0.3, "a": -0.9}, {" z": -9.0}])
    assert compare(mixed, ANSWER, Exactness.ROUNDED).problem is not None


def test_a_stream_is_put_together_as_a_whole_answer_is() -> None:
    def piece(place: int, text: str, reason: str | None) -> dict[str, Any]:
        names = ("tokens", "token_logprobs", "top_logprobs")
        return {
            "text": text,
            "finish_reason": reason,
            "logprobs": {**{name: [ANSWER[name][place]] for name in names}, "text_offset": [place]},
        }

    end = {"text": "", "finish_reason": "length", "logprobs": None}
    assert streamed_answer([piece(0, "a", None), piece(1, " b", None), end]) == ANSWER
    names = ("tokens", "token_logprobs", "top_logprobs")
    whole = {**ANSWER, "index": 0, "logprobs": {**{name: ANSWER[name] for name in names}, "text_offset": [0, 1]}}
    assert whole_answer(whole) == ANSWER
