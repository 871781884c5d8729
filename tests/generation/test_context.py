from __future__ import annotations

import pytest

from veneer.errors import DataError
from veneer.generation.context import cut_warning, is_cut, refuse_full, within
from veneer.generation.sampling import Sampling


def test_prompts_without_room_for_a_token_are_refused_and_all_are_named() -> None:
    refuse_full([("row 0", 99)], 100)
    with pytest.raises(DataError, match=r"has 100 tokens.*\n  - row 1: 100 tokens\n  - row 2: 2,000 tokens\nGive a sh"):
        refuse_full([("row 0", 99), ("row 1", 100), ("row 2", 2000)], 100)


def test_an_answer_has_the_room_that_its_prompt_leaves() -> None:
    asked = Sampling(max_new_tokens=8, min_new_tokens=5)
    assert within(asked, 90, 100) == asked
    assert within(asked, 97, 100) == Sampling(max_new_tokens=3, min_new_tokens=3)


def test_only_answers_that_could_have_been_longer_are_cut() -> None:
    asked = Sampling(max_new_tokens=8)
    assert is_cut(asked, 95, 5, 100)
    assert not is_cut(asked, 92, 8, 100)
    assert not is_cut(asked, 95, 4, 100)
    assert cut_warning([], 1000) == "the answer ends where the model's context of 1,000 tokens does"
    assert cut_warning(["row 3"], 1000) == "answers end where the model's context of 1,000 tokens does:\n  - row 3"
