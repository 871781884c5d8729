from __future__ import annotations

from pathlib import Path

import pytest

import veneer
from veneer.data.files.given_names import GIVEN_EVAL_ROWS, GIVEN_ROWS, given_file, shown_name
from veneer.events import Event, Note


def test_rows_in_memory_have_their_own_name_and_files_their_path(tmp_path: Path) -> None:
    for name in (GIVEN_ROWS, GIVEN_EVAL_ROWS):
        assert shown_name(given_file(tmp_path, name)) == shown_name(str(given_file(tmp_path, name))) == name
    for file in (tmp_path / "rows.jsonl", tmp_path / GIVEN_ROWS / "rows.jsonl", Path("a.csv")):
        assert shown_name(file) == str(file)


@pytest.mark.parametrize("cache", ["never", "always"])
def test_a_plan_over_rows_in_memory_names_no_file(cache: str, tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"question {number}", "completion": "answer"} for number in range(6)]
    rows += [{"prompt": "no answer"}, rows[0], {"prompt": "long " * 100, "completion": "y", "id": "3"}]
    settings = {
        "model": str(tiny_model), "output": str(tmp_path / "run"), "compute": {"device": "cpu"},
        "data": {"bad_rows": "skip", "max_length": 40, "cache": cache, "cache_dir": str(tmp_path / "cache")},
    }  # fmt: skip
    seen: list[Event] = []
    for _ in range(2):  # the second time the tokens may come from the cache
        seen.clear()
        veneer.plan(settings, data=rows, subscribers=[seen.append])
        told = "\n".join(event.message for event in seen if isinstance(event, Note))
        assert "the given rows: 1 of 9 rows cannot be used and are left out:\n  - the given rows:7: " in told
        assert "the given rows: these columns or keys are not used: 'id' (1 row)" in told
        assert "(first: the given rows:8 = the given rows:1)" in told
        assert "longer than data.max_length=40 and left out: the given rows:9" in told
        assert ".jsonl" not in told
