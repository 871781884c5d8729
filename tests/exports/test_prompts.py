from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.models.tiny import rows, run_config, write_rows
from veneer.assistant.assistant import Assistant
from veneer.assistant.load import open_assistant
from veneer.config import ComputeSection
from veneer.data.records import read_records
from veneer.enums import Dtype
from veneer.errors import DataError, ModelError
from veneer.exports.prompts import BUILT_IN, LONGEST, QUESTIONS, TEXTS, EvaluationRows, chosen, evaluation_rows


@pytest.fixture(scope="module")
def assistant(tiny_model: Path) -> Assistant:
    return open_assistant(str(tiny_model), compute=ComputeSection(device="cpu", dtype=Dtype.FLOAT32))


def given(folder: Path, content: list[object]) -> EvaluationRows:
    return EvaluationRows(tuple(read_records(write_rows(folder / "rows.jsonl", content))), "rows.jsonl")


def test_without_rows_the_built_in_questions_are_asked(assistant: Assistant) -> None:
    found = chosen(assistant, None, 3, 16)
    assert found.source == BUILT_IN
    assert [prompt.messages for prompt in found.prompts] == [({"role": "user", "content": q},) for q in QUESTIONS]
    assert found.texts[: len(TEXTS)] == TEXTS


def test_a_prompt_is_all_before_the_last_answer_as_the_reference_encodes_it(
    assistant: Assistant, tmp_path: Path
) -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (prompt,) = chosen(assistant, given(tmp_path, [row]), 5, 16).prompts
    assert prompt.messages == tuple(row["messages"][:3])
    rendered = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns[:3])
    assert assistant.tokenizer.encode(f"{rendered}<|im_start|>assistant\n") == list(prompt.tokens)


def test_a_prompt_never_ends_with_an_answer(assistant: Assistant, tmp_path: Path) -> None:
    """llama.cpp takes that for the beginning of its own. Where only answers stand before, no text is compared."""
    content = [
        {"messages": [{"role": role, "content": "x"} for role in roles]}
        for roles in (("user", "assistant", "assistant", "assistant"), ("assistant", "assistant"))
    ]
    question, answers = chosen(assistant, given(tmp_path, [*content]), 5, 16).prompts
    assert question.messages == ({"role": "user", "content": "x"},)
    assert answers.messages is None
    assert assistant.tokenizer.decode(answers.tokens).startswith("assistant\nx")


@pytest.mark.parametrize(("context", "longest"), [(None, 512 - 17), (64, 64 - 17), (18, 1), (17, 8), (4, 2), (3, 1)])
def test_a_prompt_leaves_room_for_its_answer(
    context: int | None, longest: int, assistant: Assistant, tmp_path: Path
) -> None:
    assert assistant.model.spec.max_positions == 512
    found = chosen(assistant, given(tmp_path, [{"text": "late " * 3 * LONGEST}]), 1, 16, context)
    assert len(found.prompts[0].tokens) == longest
    assert 1 <= found.new_tokens <= 16
    assert found.longest < (context or 512)


def test_a_context_without_room_for_an_answer_is_refused(assistant: Assistant) -> None:
    with pytest.raises(ModelError, match=r"a context of 2 tokens has no room for them; it needs 3"):
        chosen(assistant, None, 1, 16, 2)


def test_as_many_rows_are_asked_as_the_limit_says_and_a_long_one_is_cut(assistant: Assistant, tmp_path: Path) -> None:
    content: list[object] = [*rows(5), {"text": "late " * 3 * LONGEST}]
    found = chosen(assistant, given(tmp_path, content), 3, 16)
    assert [prompt.where.rpartition(":")[2] for prompt in found.prompts] == ["1", "2", "3"]
    found = chosen(assistant, given(tmp_path, content), 6, 16)
    assert (len(found.prompts[5].tokens), found.prompts[5].messages) == (512 - 17, None)
    assert found.longest == 512 - 1
    assert len(set(found.texts)) == len(found.texts)


def test_rows_that_cannot_be_asked_are_all_named(assistant: Assistant, tmp_path: Path) -> None:
    answer_first = {"messages": [{"role": "assistant", "content": "x"}]}
    content = given(tmp_path, [answer_first, *rows(1), answer_first])
    with pytest.raises(DataError) as caught:
        chosen(assistant, content, 9, 16)
    assert "2 rows cannot be asked" in str(caught.value)
    for line in ("rows.jsonl:1: there is no question", "rows.jsonl:3: there is no question"):
        assert line in str(caught.value)


def test_tokens_that_the_embedding_has_no_row_for_are_refused(assistant: Assistant, tmp_path: Path) -> None:
    class Small:
        spec = replace(assistant.model.spec, vocab_size=5)  # type: ignore[type-var]

    with pytest.raises(DataError, match="the embedding has 5 rows"):
        chosen(replace(assistant, model=Small()), given(tmp_path, [*rows(1)]), 9, 16)  # type: ignore[arg-type]


def test_rows_are_those_that_are_given_else_those_of_the_run(tmp_path: Path) -> None:
    file, other = (write_rows(tmp_path / name, rows(n)) for name, n in (("rows.jsonl", 20), ("other.jsonl", 3)))
    run = run_config(tmp_path, file, tmp_path / "out", "data.held_out=0.2")
    found, why = evaluation_rows(run, str(other))
    assert found is not None
    assert (len(found.records), found.source, why) == (3, str(other), "")
    found, _ = evaluation_rows(run, None)
    assert found is not None
    assert len(found.records) == 4
    assert found.source == f"{file} (the 4 rows held out of training)"
    found, _ = evaluation_rows(run_config(tmp_path, file, tmp_path / "out", f"data.eval_file={other}"), None)
    assert found is not None
    assert (len(found.records), found.source) == (3, str(other))


def test_columns_have_the_names_that_the_run_mapped(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"question": "How?", "reply": "So."}])
    run = run_config(tmp_path, file, tmp_path / "out", "data.columns={prompt: question, completion: reply}")
    found, _ = evaluation_rows(run, str(file))
    assert found is not None
    assert [record.completion for record in found.records] == ["So."]
    with pytest.raises(DataError, match="no format is known"):
        evaluation_rows(None, str(file))


def test_why_there_are_no_rows_is_said(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", rows(5))
    assert evaluation_rows(None, None) == (None, "the adapter has no record of a run")
    run = run_config(tmp_path, file, tmp_path / "out")
    assert evaluation_rows(run, None) == (None, "the adapter's run kept no rows for evaluation")
    run = run_config(tmp_path, file, tmp_path / "out", "data.held_out=0.2")
    file.unlink()
    found, why = evaluation_rows(run, None)
    assert found is None
    assert why == f"{file}, which has the run's evaluation rows, is not there any more"
