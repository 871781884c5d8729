from __future__ import annotations

from pathlib import Path

from helpers.rows.lint_rows import chat, found_in, sentence, write
from veneer.data.lint.run import LintOptions, lint


def test_every_kind_of_leak_is_found(tmp_path: Path) -> None:
    rows = [chat(f"u:{sentence(i, 40)}", f"a:{sentence(100 + i, 40)}", source=f"s{i}") for i in range(20)]
    train = write(tmp_path / "train.jsonl", rows)
    nearly = sentence(7, 40).replace(sentence(7, 40).split()[20], "zebra")
    held = [
        rows[3] | {"source": "other"},
        chat(f"u:{sentence(5, 40)}", f"a:{sentence(300)}", source="another"),
        chat(f"u:{nearly}", f"a:{sentence(107, 40)}", source="third"),
        chat(f"u:{sentence(400)}", f"a:{sentence(401)}", source="s9"),
        chat(f"u:{sentence(500)}", f"a:{sentence(501)}", source="fourth"),
    ]
    file = write(tmp_path / "test.jsonl", held)
    found = found_in(lint(train, eval_file=file, options=LintOptions(group="source")))
    assert found == {
        "leaked-row": ["test.jsonl:1"],
        "leaked-prompt": ["test.jsonl:2"],
        "leaked-nearly": ["test.jsonl:3"],
        "leaked-group": ["test.jsonl:4"],
    }


def test_a_test_row_inside_a_longer_training_row_is_found(tmp_path: Path) -> None:
    rows = [chat(f"u:{sentence(i, 30)}", f"a:{sentence(100 + i, 30)}") for i in range(20)]
    rows[4] = chat(f"u:{sentence(4, 200)} {sentence(700, 15)} {sentence(701, 15)}", f"a:{sentence(104, 30)}")
    held = [
        chat(f"u:{sentence(700, 15)}", f"a:{sentence(701, 15)}"),
        chat(f"u:{sentence(800, 15)}", f"a:{sentence(801, 15)}"),
    ]
    train = write(tmp_path / "train.jsonl", rows)
    found = found_in(lint(train, eval_file=write(tmp_path / "test.jsonl", held)))
    assert found == {"leaked-within": ["test.jsonl:1"]}


def test_columns_that_name_groups_are_known(tmp_path: Path) -> None:
    rows = [{"text": f"{sentence(i)}", "user_id": i} for i in range(9)]
    train = write(tmp_path / "train.jsonl", rows[:6])
    held = write(tmp_path / "test.jsonl", [rows[7], rows[8] | {"user_id": 2}])
    assert found_in(lint(train, eval_file=held)) == {"leaked-group": ["test.jsonl:2"]}


def test_an_empty_cell_is_of_no_group(tmp_path: Path) -> None:
    files = [tmp_path / "train.csv", tmp_path / "test.csv"]
    for number, file in enumerate(files):
        lines = [f"{sentence(2 * i + number)},{sentence(100 + 2 * i + number)},{i or ''}" for i in range(3)]
        file.write_text("\n".join(["prompt,completion,customer_id", *lines]))
    found = found_in(lint(files[0], eval_file=files[1]))
    assert found == {"leaked-group": ["test.csv:3", "test.csv:4"]}


def test_a_whole_number_is_the_group_that_it_is_as_a_fraction(tmp_path: Path) -> None:
    """A table with a gap in a column of whole numbers has the others as floats."""
    train = write(tmp_path / "train.jsonl", [{"text": sentence(i), "customer_id": 100 + i} for i in range(5)])
    held = write(tmp_path / "test.jsonl", [{"text": sentence(10 + i), "customer_id": 104.0 + i} for i in range(2)])
    assert found_in(lint(train, eval_file=held)) == {"leaked-group": ["test.jsonl:1"]}
