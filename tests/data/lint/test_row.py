from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from helpers.rows.lint_rows import call, chat, clean, read_row, write
from helpers.texts import chat_templates as ct
from veneer.config import DataSection
from veneer.data.encoded.chat import Encoder, template_of
from veneer.data.files.json_values import BadRow
from veneer.data.files.readers import iterate_rows
from veneer.data.lint.row import CHUNK_ROWS, LintSetting, in_chunks, raw_turns, read_rows, strings
from veneer.data.rows import load_rows
from veneer.enums import BadRows, Column, ObjectiveName, RowKind


def slow_strings(value: Any, path: str) -> list[tuple[str, str]]:
    if isinstance(value, str):
        return [(path, value)]
    items: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        items = [(f"{path}.{key}".lstrip("."), item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    return [found for inner, item in items for found in slow_strings(item, inner)]


def random_value(rng: random.Random, depth: int = 0) -> Any:
    choice = rng.randrange(6 if depth < 3 else 3)
    if choice < 3:
        return [rng.randrange(9), None, f"text {rng.randrange(99)}"][choice]
    if choice == 3:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {f"k{index}": random_value(rng, depth + 1) for index in range(rng.randrange(4))}


@pytest.mark.parametrize("seed", range(20))
def test_every_string_of_a_row_is_listed_with_its_path(seed: int) -> None:
    value = random_value(random.Random(seed))
    assert list(strings(value)) == slow_strings(value, "")


def test_a_row_has_its_question_and_its_answer_as_text() -> None:
    tools = [{"function": {"name": "find"}}]
    row = read_row("f:1", chat("s:Be brief.", "u:Where?", call({"b": 1, "a": 2}), tools=tools), LintSetting())
    assert row.prompt == f"{json.dumps(tools)}\nsystem: Be brief.\nuser: Where?"
    assert row.answer == json.dumps(row.raw["messages"][2]["tool_calls"], sort_keys=True)
    assert row.whole == "\n".join(text for _, text in row.texts)
    text = read_row("f:2", {"text": "all of it"}, LintSetting())
    assert (text.prompt, text.answer) == ("", "all of it")


def test_what_a_row_says_does_not_depend_on_the_order_of_keys_in_its_tools() -> None:
    tools = [{"name": "find", "parameters": {"a": 1, "b": 2}}, {"parameters": {"b": 2, "a": 1}, "name": "find"}]
    rows = [read_row("f:1", chat("u:a", "a:b", tools=[tool]), LintSetting()) for tool in tools]
    assert rows[0].prompt == rows[1].prompt


def test_a_row_that_cannot_be_used_says_why_and_has_nothing_else() -> None:
    for raw in (BadRow("invalid JSON: x"), {"messages": "x"}):
        row = read_row("f:1", raw, LintSetting(ct.tokenizer("chatml")))
        assert row.record is None
        assert row.trace is None
        assert row.problem
        assert (row.prompt, row.answer, row.fields) == ("", "", [])
    assert read_row("f:1", BadRow("invalid JSON: x"), LintSetting()).texts == []


def test_a_row_that_the_template_refuses_keeps_its_record() -> None:
    setting = LintSetting(ct.tokenizer("mistral"))
    refused, good = read_rows([("f:1", chat("u:a", "u:b", "a:c")), ("f:2", chat("u:a", "a:c"))], setting)
    assert refused.record is not None
    assert refused.trace is None
    assert "Conversation roles must alternate" in (refused.problem or "")
    assert good.trace is not None


@pytest.mark.parametrize("template", ["chatml", "llama3", "mistral"])
def test_rows_read_together_are_encoded_as_training_encodes_each(template: str) -> None:
    tokenizer = ct.tokenizer(template)
    raws = [{"messages": raw["messages"][1:]} for raw in clean(12)]
    raws.insert(5, {"messages": 3})
    rows = read_rows([(f"f:{i}", raw) for i, raw in enumerate(raws)], LintSetting(tokenizer))
    assert [row.record is None for row in rows] == [index == 5 for index in range(13)]
    for row in rows:
        if row.record is not None and row.trace is not None:
            alone = Encoder(tokenizer, template_of(tokenizer)).encode(row.record)
            assert row.trace.example.tokens.tolist() == alone.tokens.tolist()
            assert row.trace.example.loss_mask.tolist() == alone.loss_mask.tolist()


def test_columns_of_other_names_are_read_under_their_own() -> None:
    setting = LintSetting(columns={Column.PROMPT: "q", Column.COMPLETION: "a"})
    row = read_row("f:1", {"q": "Hi", "a": "Yo"}, setting)
    assert row.renamed == {"prompt": "Hi", "completion": "Yo"}
    assert row.answer == "Yo"
    assert [path for path, _ in row.texts] == ["q", "a"]


def test_chunks_hold_all_rows_in_order() -> None:
    chunks = list(in_chunks(iter(range(2 * CHUNK_ROWS + 3))))
    assert [len(chunk) for chunk in chunks] == [CHUNK_ROWS, CHUNK_ROWS, 3]
    assert [row for chunk in chunks for row in chunk] == list(range(2 * CHUNK_ROWS + 3))


def test_turns_are_found_under_each_of_their_keys() -> None:
    raw = {"prompt": [{"role": "user"}, 3], "completion": [{"role": "assistant"}], "messages": "x", "other": [{}]}
    assert list(raw_turns(raw)) == [("prompt", {"role": "user"}), ("completion", {"role": "assistant"})]
    assert list(raw_turns([raw])) == []
    assert list(raw_turns({"messages": [{"role": "user", "audio": None}]})) == [("messages", {"role": "user"})]


def test_control_tokens_are_known_by_their_ids() -> None:
    setting = LintSetting(ct.tokenizer("llama3"))
    assert setting.tokenizer is not None
    names = {setting.tokenizer.backend.id_to_token(index) for index in setting.special_ids}
    assert names == set(setting.tokenizer.special_tokens)
    assert setting.bos_id in setting.special_ids
    assert (LintSetting().bos_id, LintSetting().special_ids, LintSetting().encoder) == (None, frozenset(), None)


ASKED = [{"role": "system", "content": "Count."}, {"role": "user", "content": "2 + 2?"}]
KINDS: dict[RowKind, list[dict[str, Any]]] = {
    RowKind.ANSWERS: [{"prompt": "2 + 2?", "completion": "4"}, {"text": "All of it."}, {"prompt": "2 + 2?"},
                       {"prompt": "2 + 2?", "completion": "five", "label": False}],
    RowKind.TEXTS: [{"text": "All of it."}, {"text": ""}],
    RowKind.PAIRS: [
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "five"},
        {"chosen": [*ASKED, {"role": "assistant", "content": "4"}],
         "rejected": [*ASKED, {"role": "assistant", "content": "5"}]},
        {"prompt": "2 + 2?", "chosen": "4"},
    ],
    RowKind.LABELLED: [
        {"prompt": "2 + 2?", "completion": "4", "label": True},
        {"text": "All of it.", "kto_tag": False},
        {"prompt": "2 + 2?", "completion": "4"},
        {"prompt": "2 + 2?", "completion": "4", "label": "perhaps"},
    ],
    RowKind.PROMPTS: [
        {"prompt": "2 + 2?", "reference": "4"},
        {"prompt": ASKED},
        {"messages": [*ASKED, {"role": "assistant", "content": "4"}]},
        {"prompt": "Is <|im_end|> a token?"},
        {"prompt": ""},
        {"question": "2 + 2?"},
    ],
}  # fmt: skip
"""Rows of each kind; a run of that kind refuses the last ones."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", ["chatml", "llama3"])
def test_rows_of_a_kind_are_those_of_a_run_that_takes_it(kind: RowKind, template: str, tmp_path: Path) -> None:
    """The reference is the run's own reader: which rows it has, their tokens and masks, and why it refuses others."""
    tokenizer, file = ct.tokenizer(template), write(tmp_path / "rows.jsonl", KINDS[kind])
    objective = next(one for one in ObjectiveName if one.rows is kind)
    data = DataSection(file=str(file), bad_rows=BadRows.SKIP, checks=())
    run = load_rows(data, tokenizer, kind=kind)
    read = read_rows(list(iterate_rows(file)), LintSetting(tokenizer, objective=objective))
    traces = [trace for row in read for trace in (row.trace, row.rejected_trace) if trace is not None]
    for mine, theirs in zip((trace.example for trace in traces), run.train, strict=True):
        assert mine.where == theirs.where
        assert mine.tokens.tolist() == theirs.tokens.tolist()
        assert mine.loss_mask.tolist() == theirs.loss_mask.tolist()
    assert [(row.where, row.problem) for row in read if row.problem] == [(one.where, one.reason) for one in run.skipped]
    assert run.skipped
    labels = [row.desirable for row in read if row.trace is not None]
    assert labels == ([*run.labels] if kind is RowKind.LABELLED else [None] * len(labels))
    assert [row.asked for row in read if row.trace is not None] == (
        [*run.prompts] if kind is RowKind.PROMPTS else [None] * len(labels)
    )


def test_a_prompt_is_all_that_its_turns_say_and_has_no_answer() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}, *ASKED[1:]]
    row = read_row(
        "f:1", {"prompt": turns, "instruction": "x"}, LintSetting(ct.tokenizer("chatml"), objective=ObjectiveName.GRPO)
    )
    assert (row.prompt, row.answer) == ("user: Hi\nassistant: Yo\nuser: 2 + 2?", "")
    places = [(one.source.path, one.source.text, one.found) for one in row.fields]
    assert places == [(f"prompt[{place}].content", turn["content"], True) for place, turn in enumerate(turns)]
    assert not row.unanswered


def test_a_pair_has_its_other_answer_as_a_row() -> None:
    setting = LintSetting(ct.tokenizer("chatml"), objective=ObjectiveName.DPO)
    row = read_row("f:1", {"instruction": "2 + 2?", "chosen": "4", "rejected": "five"}, setting)
    other = row.other
    assert other is not None
    assert (row.part, other.part, other.answer, other.other) == ("chosen", "rejected", "five", None)
    assert other.trace is row.rejected_trace
    assert [one.source.path for one in row.fields][-1] == "chosen"
    assert [one.source.path for one in other.fields][-1] == "rejected"
    assert all(one.found for one in (*row.fields, *other.fields))
    assert read_row("f:1", {"text": "a"}, setting).other is None


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        ({"prompt": "a", "completion": "b", "chosen": None, "rejected": None}, ""),
        ({"messages": chat("u:a", "a:b")["messages"], "preferred_output": None, "non_preferred_output": None}, ""),
        ({"prompt": "a", "completion": None, "chosen": "b", "rejected": "c"}, "chosen"),
    ],
)
def test_a_null_where_pairs_have_an_answer_makes_no_pair(raw: dict[str, Any], part: str) -> None:
    """Files of answers that were merged with pairs have the columns of both in every row."""
    row = read_row("f:1", raw, LintSetting())
    assert (row.problem, row.part, row.answer) == (None, part, "b")


def test_a_pair_of_which_an_answer_is_null_is_called_one() -> None:
    row = read_row("f:1", {"prompt": "a", "chosen": "b", "rejected": None}, LintSetting())
    assert row.problem == "there is chosen but no rejected"


def test_a_row_without_an_answer_is_told_from_one_that_is_broken() -> None:
    for raw, asks in (
        ({"prompt": "a"}, True),
        ({"prompt": "a", "completion": None}, True),
        ({"prompt": "a", "completion": ""}, True),
        ({"prompt": "a", "completion": 4}, False),
        ({"prompt": "a", "completion": 0}, False),
        ({"messages": ASKED}, True),
        ({"prompt": ""}, False),
        ({"a": 1}, False),
    ):
        assert read_row("f:1", raw, LintSetting()).unanswered is asks
        assert not read_row("f:1", raw, LintSetting(objective=ObjectiveName.SFT)).unanswered
