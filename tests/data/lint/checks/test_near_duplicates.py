from __future__ import annotations

from pathlib import Path

from helpers.rows.lint_rows import chat, found_in, sentence, write
from veneer.data.lint.run import lint


def test_near_duplicates_warn_where_there_are_many(tmp_path: Path) -> None:
    rows = [chat(f"u:{sentence(i, 40)}", f"a:{sentence(1000 + i, 40)}") for i in range(60)]
    few = [*rows, chat(f"u:{sentence(1, 40)} Indeed.", f"a:{sentence(1001, 40)}")]
    assert found_in(lint(write(tmp_path / "few.jsonl", few))) == {"near-duplicate": ["few.jsonl:61"]}
    many = [*few, *(chat(f"u:{sentence(i, 40)} Please.", f"a:{sentence(1000 + i, 40)}") for i in range(2, 9))]
    found = found_in(lint(write(tmp_path / "many.jsonl", many)))
    assert found == {"many-near-duplicates": [f"many.jsonl:{i}" for i in range(61, 69)]}


def test_an_evaluation_row_that_is_nearly_a_training_row_is_found(tmp_path: Path) -> None:
    rows = [chat(f"u:{sentence(i, 40)}", f"a:{sentence(1000 + i, 40)}") for i in range(20)]
    held = [
        chat(f"u:{sentence(5, 40)} Indeed.", f"a:{sentence(1005, 40)}"),
        chat(f"u:{sentence(2000, 40)}", f"a:{sentence(2001, 40)}"),
    ]
    train = write(tmp_path / "train.jsonl", rows)
    found = found_in(lint(train, eval_file=write(tmp_path / "test.jsonl", held)))
    assert found == {"leaked-nearly": ["test.jsonl:1"]}


def test_rows_that_others_link_are_near_duplicates_of_those_that_they_are_like(tmp_path: Path) -> None:
    """Of a chain, each of whose rows is nearly the one before it, the last has no word of the first."""
    chain = [{"text": " ".join(f"word{i}" for i in range(start, start + 40))} for start in range(0, 44, 4)]
    train = write(tmp_path / "train.jsonl", chain[:1])
    report = lint(train, eval_file=write(tmp_path / "test.jsonl", chain[1:]))
    assert found_in(report) == {"leaked-nearly": ["test.jsonl:1"]}
    [found] = lint(write(tmp_path / "all.jsonl", chain)).found
    assert found.rule.name == "many-near-duplicates"
    named = [text.rpartition(":")[2] for _, text in sorted(found.details.items())]
    assert named == [str(line) for line in range(1, len(chain))], "the row before each"
