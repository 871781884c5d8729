from __future__ import annotations

from pathlib import Path

import pytest

from veneer.errors import OutputError
from veneer.screens.serve import NAMED, selfcheck_visibly, summary
from veneer.serving.request import ServeRequest, Serving


@pytest.mark.parametrize("count", [0, 1, NAMED, NAMED + 1, 1004])
def test_adapters_are_named_up_to_a_few_and_counted(count: int) -> None:
    names = [f"adapter {number}" for number in range(count)]
    text = summary(Serving("http://127.0.0.1:8000", ("base", *names)), with_key=False)
    assert "http://127.0.0.1:8000" in text
    assert ", ".join(names[:NAMED]) in text
    assert (f"and {count - NAMED:,} more" in text) is (count > NAMED)
    assert ("without adapters" in text) is (count == 0)


def test_a_certificate_that_would_replace_another_file_is_refused_before_a_model_is_opened(tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("secret")
    request = ServeRequest(model=str(tmp_path / "absent"))
    with pytest.raises(OutputError, match="is not a certificate"):
        selfcheck_visibly(request, 1, keys, as_json=False)
    assert keys.read_text() == "secret"


def test_it_is_said_whether_a_key_is_asked_for() -> None:
    serving = Serving("http://127.0.0.1:8000", ("base",))
    assert summary(serving, with_key=True) != summary(serving, with_key=False)
