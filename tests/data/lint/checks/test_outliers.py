from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.rows.lint_rows import chat, found_in, sentence, write
from veneer.data.lint.run import lint


def test_rows_of_rare_lengths_keys_and_languages_are_found(tmp_path: Path) -> None:
    rows: list[Any] = [chat(f"u:{sentence(i, 12)}", f"a:{sentence(1000 + i, 12)}") for i in range(300)]
    rows[10] = chat(f"u:{sentence(9003, 500)}", f"a:{sentence(9004, 800)}")
    rows[20] = {"prompt": sentence(9005, 12), "completion": sentence(9006, 12)}
    for i in range(100, 200):
        rows[i] = chat(f"u:{sentence(i, 12)}", f"a:This is the {sentence(2000 + i, 8)} and what you have.")
    rows[40] = chat(f"u:{sentence(40, 12)}", "a:Der Hafen und die Laterne sind nicht auf dem Feld im Wald.")
    rows[30] = chat(f"u:{sentence(30, 12)}", "a:Гавань, фонарь, луг, медь, скрипка, сад и гранит у старого моста.")
    found = found_in(lint(write(tmp_path / "rows.jsonl", rows)))
    assert found == {
        "outlier-length": ["rows.jsonl:11"],
        "rare-keys": ["rows.jsonl:21"],
        "rare-language": ["rows.jsonl:31", "rows.jsonl:41"],
    }


def test_lengths_of_several_kinds_are_no_outliers(tmp_path: Path) -> None:
    rows = [chat(f"u:{sentence(i, 12)}", f"a:{sentence(1000 + i, 12 if i % 10 else 300)}") for i in range(200)]
    assert found_in(lint(write(tmp_path / "rows.jsonl", rows))) == {}
