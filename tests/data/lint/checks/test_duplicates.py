from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from helpers.rows.lint_rows import chat, clean, found_in, sentence, write
from veneer.data.lint.checks.duplicates import groups
from veneer.data.lint.run import lint


def test_repeated_rows_and_rows_that_contradict_each_other_are_found(tmp_path: Path) -> None:
    labelled = [{"prompt": sentence(i), "completion": ("yes", "no", "perhaps")[i % 3]} for i in range(30)]
    rows = [
        *labelled,
        {"prompt": labelled[4]["prompt"].upper(), "completion": "no "},  # 31 is the row 5 again
        {"prompt": labelled[6]["prompt"], "completion": "no"},  # 32 contradicts the row 7
    ]
    found = found_in(lint(write(tmp_path / "rows.jsonl", rows)))
    assert found == {
        "duplicate": ["rows.jsonl:31"],
        "conflicting-labels": ["rows.jsonl:7", "rows.jsonl:32"],
        "label-spelling": ["rows.jsonl:31"],
    }


def test_white_space_around_a_question_hides_no_repeat(tmp_path: Path) -> None:
    rows = [*clean(4), chat("s:Be brief.", f"u:{sentence(2)} \n", f"a:\t{sentence(3).upper()}")]
    train = write(tmp_path / "rows.jsonl", rows)
    assert found_in(lint(train)) == {"duplicate": ["rows.jsonl:5"]}
    held = write(tmp_path / "test.jsonl", rows[4:])
    assert found_in(lint(write(train, rows[:4]), eval_file=held)) == {"leaked-row": ["test.jsonl:1"]}


def test_evaluation_rows_are_compared_with_each_other_too(tmp_path: Path) -> None:
    """A score counts a repeated row twice, and one of two contradicting labels is wrong in any answer."""
    train = write(tmp_path / "rows.jsonl", clean(4))
    labelled = [{"prompt": sentence(50 + i), "completion": ("yes", "no")[i % 2]} for i in range(20)]
    rows = [*labelled, labelled[2], {"prompt": labelled[4]["prompt"], "completion": "no"}]
    held = write(tmp_path / "test.jsonl", rows)
    assert found_in(lint(train, eval_file=held)) == {
        "duplicate": ["test.jsonl:21"],
        "conflicting-labels": ["test.jsonl:5", "test.jsonl:22"],
    }


def test_several_right_answers_are_no_error(tmp_path: Path) -> None:
    rows = [chat(f"u:{sentence(i // 2)}", f"a:{sentence(100 + i)}") for i in range(12)]
    report = lint(write(tmp_path / "rows.jsonl", rows))
    assert list(found_in(report)) == ["several-answers"]
    assert not report.failed


def test_a_few_contradicting_labels_are_found_in_any_file(tmp_path: Path) -> None:
    rows = [chat(f"u:{sentence(i, 20)}", f"a:{sentence(100 + i, 40)}") for i in range(9)]
    rows += [chat(f"u:{sentence(50 + i)}", f"a:{('spam', 'ham')[i % 2]}") for i in range(6)]
    rows.append(chat(f"u:{sentence(50)}", "a:ham"))
    found = found_in(lint(write(tmp_path / "rows.jsonl", rows)))
    assert found["conflicting-labels"] == ["rows.jsonl:10", "rows.jsonl:16"]


def test_an_undesirable_answer_contradicts_none(tmp_path: Path) -> None:
    """Labelled rows name the right answer and a wrong one; two right ones that differ are told as ever."""
    answers = ("yes", "no", "perhaps")
    rows = [
        {"prompt": sentence(i // 2), "completion": answers[(i // 2 + i % 2) % 3], "label": i % 2 == 0}
        for i in range(30)
    ]
    assert found_in(lint(write(tmp_path / "rows.jsonl", rows))) == {}
    rows[3]["label"] = True
    found = found_in(lint(write(tmp_path / "rows.jsonl", rows)))
    assert found == {"conflicting-labels": ["rows.jsonl:3", "rows.jsonl:4"]}


def test_a_column_of_numbers_beside_the_names_of_labels_hides_no_contradiction(tmp_path: Path) -> None:
    rows = [{"prompt": sentence(i), "completion": ("ham", "spam")[i % 2], "label": i % 2} for i in range(30)]
    rows.append({"prompt": sentence(4), "completion": "spam", "label": 1})
    found = found_in(lint(write(tmp_path / "rows.jsonl", rows)))
    assert found == {"conflicting-labels": ["rows.jsonl:5", "rows.jsonl:31"]}


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_groups_are_the_places_of_what_is_there_more_than_once(values: list[int]) -> None:
    slow = [[at for at, other in enumerate(values) if other == value] for value in sorted(set(values))]
    assert [places.tolist() for places in groups(np.array(values))] == [places for places in slow if len(places) > 1]
