from __future__ import annotations

import pytest

from veneer.screens.serve import NAMED, summary
from veneer.serving.request import Serving


@pytest.mark.parametrize("count", [0, 1, NAMED, NAMED + 1, 1004])
def test_adapters_are_named_up_to_a_few_and_counted(count: int) -> None:
    names = [f"adapter {number}" for number in range(count)]
    text = summary(Serving("http://127.0.0.1:8000", ("base", *names)), with_key=False)
    assert "http://127.0.0.1:8000" in text
    assert ", ".join(names[:NAMED]) in text
    assert (f"and {count - NAMED:,} more" in text) is (count > NAMED)
    assert ("without adapters" in text) is (count == 0)


def test_it_is_said_whether_a_key_is_asked_for() -> None:
    serving = Serving("http://127.0.0.1:8000", ("base",))
    assert summary(serving, with_key=True) != summary(serving, with_key=False)
